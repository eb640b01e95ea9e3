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
_DARK = 16_383 >> 8
"""Upper byte of the white of 14 bits."""
_PNG_HEAD_BYTES = 26
_PNG_COLOURS = (b"\x10\x02", b"\x10\x06")
"""Bit depth and colour type in a PNG file's header: 16 bits, RGB without and with alpha (ISO/IEC 15948, 11.2.2)."""


def highest_of(encoded: Callable[[], bytes | Path], max_pixels: int) -> int | None:
    """Highest value in the image file that `encoded` returns; None for one that is not gray with 16 bits, that declares
    its own white, or that cannot be read."""
    try:
        header = read_header(encoded(), max_pixels=max_pixels)
        # Pillow's modes of whole numbers above 8 bits are I, I;16, I;16L and I;16B; colour has none (it becomes RGB).
        if not header.mode.startswith("I"):
            header.close()
            return None
        image = load_image(header)
        # A file that declares its white is read by that, so it tells nothing of the white of the others.
        return None if declared_white(image) else int(np.asarray(image).max())
    except ImageError:
        return None


def white_of(highest: Iterable[int | None]) -> tuple[int, str]:
    """Value of white for images with these highest values, and a note where it is below that of 16 bits, else an empty
    string."""
    # The next usual depth at or above the brightest pixel: 3,900 is taken for 12 bits, not for a white of 3,900, or the
    # brightness of all images would depend on one of them.
    found = max((value for value in highest if value is not None and value <= MAX_WHITE), default=MAX_WHITE)
    white = next(white for white in _WHITES if white >= found)
    if white == MAX_WHITE:
        return white, ""
    bits = white.bit_length()
    return white, (
        f"the 16-bit images hold values up to {found:,}, so they are taken for {bits}-bit ones: {white:,} is white; "
        "if that is wrong, save them scaled to 16 bits"
    )


def dark_colours(files: Iterable[Callable[[], bytes | Path]], max_pixels: int) -> str:
    """A note where the colour PNG files of 16 bits hold 14 or fewer, else an empty string: Pillow decodes their upper 8
    bits alone, so that little is left of 12."""
    highest = [value for file in files if (value := _highest_colour(file, max_pixels)) is not None]
    if not highest or max(highest) > _DARK:
        return ""
    return (
        f"the 16-bit colour PNG files hold no more than {max(highest) + 1} of 256 levels, as those of a camera with "
        "fewer bits; their lower 8 bits are not read: save them scaled to 16 bits"
    )


def _highest_colour(encoded: Callable[[], bytes | Path], max_pixels: int) -> int | None:
    """Highest value, of 255, in a colour PNG file of 16 bits; None for any other file."""
    try:
        data = encoded()
        if isinstance(data, Path):
            with data.open("rb") as file:
                head = file.read(_PNG_HEAD_BYTES)
        else:
            head = data[:_PNG_HEAD_BYTES]
        if not head.startswith(b"\x89PNG") or head[24:26] not in _PNG_COLOURS:
            return None
        # Without alpha, which is 255 in an opaque image however dark it is.
        return int(np.asarray(load_image(read_header(data, max_pixels=max_pixels)))[..., :3].max())
    except (ImageError, OSError):
        return None
