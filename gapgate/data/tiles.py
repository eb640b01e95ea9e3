"""Images as tiles of a sheet; NumPy and Pillow only."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def picture(pixels: NDArray[np.uint8]) -> Image.Image:
    """(H, W, 1 or 3) uint8 as Pillow has it, in gray or in RGB."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """(H, W, 1 or 3) uint8 as a PNG file."""
    data = BytesIO()
    picture(pixels).save(data, "PNG")
    return data.getvalue()


def whole_factor(side_px: int, least_px: int) -> int:
    """The smallest whole number that makes a side `least_px` long or longer, so that pixels stay square."""
    return max(1, -(-least_px // side_px))


def tile(pixels: NDArray[np.uint8], width_px: int, height_px: int) -> Image.Image:
    """An image (H, W, 1 or 3) of another size: enlarged, its pixels stay visible; shrunk, it is antialiased."""
    found = picture(pixels)
    is_larger = found.width < width_px
    return found.resize((width_px, height_px), Image.Resampling.NEAREST if is_larger else Image.Resampling.LANCZOS)
