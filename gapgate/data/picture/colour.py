"""Colour profiles (ICC) to sRGB, which is what networks are trained on and screens show; by littlecms in Pillow."""

from __future__ import annotations

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
    return None if mode != "CMYK" and _is_identity(found, mode) else found


def _is_identity(found: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """True if a conversion leaves all colours as they are, by a grid of them."""
    # By what it does: the name inside a profile is free text, and there are dozens of sRGB profiles.
    values = np.array(range(0, 256, 15 if mode == "L" else 51), np.uint8)
    axes = [values] if mode == "L" else [values] * 3
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(1, -1, len(axes))  # (1, n, 1 or 3)
    result = np.asarray(found.apply(Image.fromarray(grid[..., 0] if mode == "L" else grid)))
    return int(np.abs(result.astype(np.int16) - grid).max()) <= _SAME
