"""Value of white in gray files of 16 bits, most of which hold the 10, 12 or 14 bits of a camera or a scanner."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from gapgate.data.picture.modes import MAX_WHITE, declared_white
from gapgate.data.picture.opening import load_image, read_header
from gapgate.errors import ImageError

_WHITES = (255, 1_023, 4_095, 16_383, MAX_WHITE)
"""Whites of the usual depths: 8, 10, 12, 14 and 16 bits."""


def highest_of(encoded: Callable[[], bytes | Path], max_pixels: int) -> int | None:
    """Highest value in the image file that `encoded` returns; None for one that is not gray with 16 bits, that declares
    its own white, or that cannot be read."""
    try:
        header = read_header(encoded(), max_pixels=max_pixels)
        if not header.mode.startswith("I"):
            header.close()
            return None
        image = load_image(header)
        return None if declared_white(image) else int(np.asarray(image).max())
    except ImageError:
        return None


def white_of(highest: Iterable[int | None]) -> tuple[int, str]:
    """Value of white for images with these highest values, and a note where it is below that of 16 bits, else an empty
    string."""
    found = max((value for value in highest if value is not None and value <= MAX_WHITE), default=MAX_WHITE)
    white = next(white for white in _WHITES if white >= found)
    if white == MAX_WHITE:
        return white, ""
    bits = white.bit_length()
    return white, (
        f"the 16-bit images hold values up to {found:,}, so they are taken for {bits}-bit ones: {white:,} is white; "
        "if that is wrong, save them scaled to 16 bits"
    )
