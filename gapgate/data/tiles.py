"""Images as tiles of a sheet, and the sheet for a light and for a dark page; NumPy and Pillow only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_THUMBNAIL_PX = 96
_MAX_LOSSLESS_PX = 32
"""Largest side of a picture that keeps every pixel; larger ones are a tenth of the size as JPEG."""

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Colours:
    """Colours of a sheet."""

    paper: Colour
    ink: Colour
    faint: Colour


LIGHT = Colours(paper=(255, 255, 255), ink=(32, 33, 36), faint=(92, 101, 112))
DARK = Colours(paper=(22, 25, 29), ink=(230, 233, 237), faint=(154, 164, 175))


def save_sheets(draw: Callable[[Colours], Image.Image], path: Path) -> None:
    """Save a sheet as `path`, and the same for dark pages as `dark/<name>` beside it."""
    for colours, place in ((LIGHT, path), (DARK, path.parent / "dark" / path.name)):
        place.parent.mkdir(exist_ok=True)
        # Level 1: a sheet of photos takes a third of the time of level 6, and a tenth more bytes.
        draw(colours).save(place, compress_level=1)


def picture(pixels: NDArray[np.uint8]) -> Image.Image:
    """Convert pixels (H, W, 1 or 3) uint8 to a Pillow image, in gray or in RGB."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode pixels (H, W, 1 or 3) uint8 as a PNG file."""
    data = BytesIO()
    picture(pixels).save(data, "PNG")
    return data.getvalue()


def whole_factor(side_px: int, least_px: int) -> int:
    """Return the smallest whole factor that makes a side at least `least_px` long; a whole one keeps pixels square."""
    return max(1, -(-least_px // side_px))


def tile(pixels: NDArray[np.uint8], width_px: int, height_px: int) -> Image.Image:
    """Resize an image (H, W, 1 or 3) uint8: enlarged, its pixels stay visible; shrunk, it is antialiased."""
    found = picture(pixels)
    is_larger = found.width < width_px
    return found.resize((width_px, height_px), Image.Resampling.NEAREST if is_larger else Image.Resampling.LANCZOS)


def thumbnail(pixels: NDArray[np.uint8]) -> tuple[bytes, str]:
    """Encode pixels (H, W, 1 or 3) uint8, shrunk to `MAX_THUMBNAIL_PX` at most; return the file and its suffix."""
    found = picture(pixels)
    found.thumbnail((MAX_THUMBNAIL_PX, MAX_THUMBNAIL_PX))
    data = BytesIO()
    is_small = max(found.size) <= _MAX_LOSSLESS_PX
    found.save(data, "PNG" if is_small else "JPEG", quality=85)
    return data.getvalue(), ".png" if is_small else ".jpg"


def save_thumbnails(images: Iterable[NDArray[np.uint8]], folder: Path) -> None:
    """Save each image in its order as `000.png` or `000.jpg` in `folder`; no folder without images."""
    for place, pixels in enumerate(images):
        folder.mkdir(exist_ok=True)
        data, suffix = thumbnail(pixels)
        (folder / f"{place:03}{suffix}").write_bytes(data)
