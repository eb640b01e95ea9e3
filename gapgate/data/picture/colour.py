"""Colour profiles (ICC) to sRGB, which is what networks are trained on and screens show; by littlecms in Pillow."""

from __future__ import annotations

import struct
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 4 * 2**20
"""Longest profile that is read: those of printing presses have 0.5 to 3 MB."""
_SPACES = {"L": b"GRAY", "RGB": b"RGB ", "CMYK": b"CMYK"}
"""Mode → colour space in the header of a profile (ICC.1:2022, 7.2.6)."""
_SPACE_AT = slice(16, 20)
_PROFILE = "icc_profile"
_SAME = 2
"""Difference in values of 255 up to which a profile counts as sRGB; the many sRGB profiles differ by less."""


def conversion(image: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """Return the conversion of an image to sRGB; None if it has no profile, that of sRGB, or one that is not for its
    kind of pixels or cannot be read, which browsers ignore as well."""
    profile = image.info.get(_PROFILE)
    return _conversion(profile, image.mode.rstrip("Aa")) if isinstance(profile, bytes) else None


def to_srgb(image: Image.Image) -> Image.Image:
    """Convert an L, LA, RGB, RGBA or CMYK image with a profile to sRGB: L stays L, the others become RGB or RGBA."""
    found = conversion(image)
    # Also for a profile that is sRGB itself: with one more conversion a pixel could change by rounding.
    if found is None:
        return image
    has_alpha = image.mode.endswith("A")
    opaque = image.convert(image.mode[:-1]) if has_alpha else image
    converted = found.apply(opaque)
    if opaque.mode == "L":  # littlecms gives gray as three equal channels
        converted = converted.getchannel("G")
    if has_alpha:
        converted.putalpha(image.getchannel("A"))
    converted.info.pop(_PROFILE, None)
    return converted


@lru_cache(maxsize=16)  # the photos of a camera have one profile, and to read it takes as long as 10,000 pixels
def _conversion(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    if len(profile) > MAX_PROFILE_BYTES or profile[_SPACE_AT] != _SPACES.get(mode):
        return None
    try:
        found = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError):
        return None
    # No CMYK is sRGB already.
    return None if mode != "CMYK" and _is_identity(found, mode) else found


def _is_identity(found: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """True if a conversion leaves all colours as they are, by a grid of them."""
    # By what it does: the name inside a profile is free text, and there are dozens of sRGB profiles.
    # 18 grays, or 6 · 6 · 6 colours, with both ends of the range.
    values = np.array(range(0, 256, 15 if mode == "L" else 51), np.uint8)
    axes = [values] if mode == "L" else [values] * 3
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(1, -1, len(axes))  # (1, n, 1 or 3)
    result = np.asarray(found.apply(Image.fromarray(grid[..., 0] if mode == "L" else grid)))
    return int(np.abs(result.astype(np.int16) - grid).max()) <= _SAME


DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
"""Red, green and blue of Display P3 as XYZ under D50 (SMPTE EG 432-1, adapted by Bradford's matrix)."""
_D50 = (0.9642, 1.0, 0.8249)


def matrix_profile(primaries: tuple[tuple[float, float, float], ...], gamma: float) -> bytes:
    """Return an RGB profile of version 2 from the XYZ of its primaries under D50 and one exponent (ICC.1:2001-04)."""

    def xyz(values: tuple[float, float, float]) -> bytes:
        # s15Fixed16Number: 65,536 is 1.0.
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65_536 * value) for value in values))

    # One entry is an exponent as u8Fixed8Number, where 256 is 1.0; two zeros fill up to a multiple of 4 bytes.
    curve = b"curv\0\0\0\0" + struct.pack(">IH2x", 1, round(256 * gamma))
    text = b"text\0\0\0\0Gapgate\0"
    # The name in ASCII; its Unicode and Macintosh forms, which follow, are left empty.
    name = b"desc\0\0\0\0" + struct.pack(">I8s", 8, b"Gapgate\0") + bytes(79)
    tags = {b"desc": name.ljust(100, b"\0"), b"cprt": text, b"wtpt": xyz(_D50)}
    tags |= {colour + b"XYZ": xyz(values) for colour, values in zip((b"r", b"g", b"b"), primaries, strict=True)}
    tags |= {colour + b"TRC": curve for colour in (b"r", b"g", b"b")}
    # A table of (signature, offset from the start of the profile, length), 12 bytes each, behind the header of 128.
    table, content = struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        table += struct.pack(">4sII", tag, 128 + 4 + 12 * len(tags) + len(content), len(value))
        content += value
    size = 128 + len(table) + len(content)
    # Length, no preferred program, version 2.4, a display, from RGB to XYZ; the date stays zero, so that equal colours
    # give equal bytes; then acsp at 36 and the illuminant at 68.
    head = struct.pack(">I4sI4s4s4s12x4s", size, b"\0\0\0\0", 0x02400000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return head.ljust(68, b"\0") + xyz(_D50)[8:].ljust(60, b"\0") + table + content
