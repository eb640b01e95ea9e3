"""Value of white in gray files of 16 bits, most of which hold the 10, 12 or 14 bits of a camera or a scanner."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from gapgate.data.transform import MAX_WHITE, load_image, read_header
from gapgate.errors import ImageError

_WHITES = (255, 1_023, 4_095, 16_383, MAX_WHITE)
"""Whites of the usual depths: 8, 10, 12, 14 and 16 bits."""
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281
"""Tags of a TIFF file that say how many bits are used (TIFF 6.0, section 8)."""


class Depth(NamedTuple):
    """What one file of 16 bits says and holds."""

    stated: int
    """Value of white that the file names; 0 if it names none."""
    highest: int
    """Highest value in it."""


def depth_of(encoded: Callable[[], bytes | Path], max_pixels: int) -> Depth | None:
    """Depth of the image file that `encoded` returns; None for one that is not gray with 16 bits, or cannot be read."""
    try:
        header = read_header(encoded(), max_pixels=max_pixels)
        if not header.mode.startswith("I"):
            header.close()
            return None
        stated = _stated(header)
        return Depth(stated, int(np.asarray(load_image(header)).max()))
    except ImageError:
        return None


def white_of(depths: Iterable[Depth | None]) -> tuple[int, str]:
    """Value of white for images of these depths, and a note where it was guessed from the highest value, else an empty
    string. Without images of 16 bits it is their largest value."""
    found = [depth for depth in depths if depth is not None and depth.highest <= MAX_WHITE]
    if not found:
        return MAX_WHITE, ""
    stated = max(depth.stated for depth in found)
    highest = max(depth.highest for depth in found)
    if stated >= highest:
        return stated, ""
    white = next(white for white in _WHITES if white >= highest)
    if white == MAX_WHITE:
        return white, ""
    bits = white.bit_length()
    return white, (
        f"the 16-bit images hold values up to {highest:,}, so they are taken for {bits}-bit ones: {white:,} is white; "
        "if that is wrong, save them scaled to 16 bits"
    )


def _stated(header: Image.Image) -> int:
    """Value of white that a TIFF file names, in any of two tags; 0 if it names none below 16 bits."""
    tags = getattr(header, "tag_v2", {})
    try:
        bits = int(np.min(tags.get(_BITS_PER_SAMPLE, 16)))
        white = min(int(np.max(tags.get(_MAX_SAMPLE_VALUE, MAX_WHITE))), (1 << bits) - 1)
    except (TypeError, ValueError):  # a damaged tag may hold text
        return 0
    return white if 0 < white < MAX_WHITE else 0
