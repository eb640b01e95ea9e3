"""Images as tiles of a sheet; NumPy and Pillow only."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image


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
