"""The contact sheet: sample images of every class on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gapgate.data.tiles import LIGHT, Colours, tile, whole_factor
from gapgate.text import shortened

MAX_CLASSES = 50
"""Largest number of rows on a sheet; with more classes the sheet says how many are not shown."""

_TILE_PX = (64, 128)
"""Least and largest side of a tile; smaller images are enlarged by a whole factor, larger ones are shrunk."""
_GAP_PX, _MARGIN_PX, _TEXT_PX, _SMALL_PX, _NAME_CHARS = 6, 20, 16, 12, 24


@dataclass(frozen=True, slots=True)
class ClassSample:
    """One row of the sheet."""

    name: str
    counts: Mapping[str, int]
    """Split → number of images of the class."""
    images: Sequence[NDArray[np.uint8]]
    """Sample images, (H, W, C) each, C = 1 or 3."""


def contact_sheet(samples: Sequence[ClassSample], colours: Colours = LIGHT) -> Image.Image:
    """Draw a row for each class: its name, its counts and its sample images. Equal inputs give equal pixels."""
    shown = samples[:MAX_CLASSES]
    # All tiles have one size, that of the largest sample, so that classes can be compared by eye.
    side = max((max(image.shape[:2]) for sample in shown for image in sample.images), default=_TILE_PX[0])
    tile_px = _tile_side(side)
    text, small = ImageFont.load_default(_TEXT_PX), ImageFont.load_default(_SMALL_PX)
    labels = [(shortened(sample.name, _NAME_CHARS), _counts(sample.counts)) for sample in shown]
    label_width = int(max(max(text.getlength(name), small.getlength(counts)) for name, counts in labels)) + _MARGIN_PX
    columns = max(1, *(len(sample.images) for sample in shown))
    left, step = _MARGIN_PX + label_width, tile_px + _GAP_PX
    footer = f"… and {len(samples) - len(shown)} more classes" if len(samples) > len(shown) else ""
    height = 2 * _MARGIN_PX + step * len(shown) - _GAP_PX + (_MARGIN_PX if footer else 0)
    sheet = Image.new("RGB", (left + step * columns - _GAP_PX + _MARGIN_PX, height), colours.paper)
    draw = ImageDraw.Draw(sheet)
    for row, (sample, (name, counts)) in enumerate(zip(shown, labels, strict=True)):
        top = _MARGIN_PX + step * row
        draw.text((_MARGIN_PX, top + tile_px / 2 - 1), name, colours.ink, text, anchor="lb")
        draw.text((_MARGIN_PX, top + tile_px / 2 + 4), counts, colours.faint, small, anchor="lt")
        for column, image in enumerate(sample.images):
            sheet.paste(tile(image, tile_px, tile_px), (left + step * column, top))
    draw.text((_MARGIN_PX, height - _MARGIN_PX), footer, colours.faint, small, anchor="lb")
    return sheet


def _tile_side(side: int) -> int:
    smallest, largest = _TILE_PX
    return min(side * whole_factor(side, smallest), largest)


def _counts(counts: Mapping[str, int]) -> str:
    return "   ".join(f"{split} {count:,}" for split, count in counts.items())
