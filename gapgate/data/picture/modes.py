"""Pixels of any kind that Pillow decodes, to 8 bits: palettes, alpha, CMYK, and integers of 10 to 32 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from gapgate.data.picture.colour import conversion, to_srgb
from gapgate.errors import ImageError, ImageFault

MAX_WHITE = 65_535
"""Largest value of a 16-bit image."""
VERSION = 2
"""Version of the meaning of pixels, which `transform.json` names. 1: profiles, the range and white that a file declares
and the transparent value of 16-bit PNG files were ignored."""

_WHITE, _IS_INVERTED = "gapgate white", "gapgate white is zero"
"""Keys of `Image.info` for `declare`."""
_BITS, _PHOTOMETRIC, _LARGEST = 258, 262, (281, 341)
"""TIFF tags: bits of a sample, meaning of 0, MaxSampleValue and SMaxSampleValue (TIFF 6.0, sections 8 and 19)."""


def declare(image: Image.Image, tags: Any = None) -> None:
    """Note what a decoded file of whole numbers says of their range, for `in_eight_bits` of it or of its parts; `tags`
    are those of a TIFF file, by default the image's own."""
    if not image.mode.startswith("I"):
        return
    tags = getattr(image, "tag_v2", {}) if tags is None else tags
    # 0 is WhiteIsZero: Pillow inverts such files of 8 bits (its raw mode is "L;I"), but not those of 16.
    image.info[_IS_INVERTED] = tags.get(_PHOTOMETRIC) == 0
    white = _declared(tags)
    # A file that declares less than it holds is wrong about it, and 32 bits without a range have none.
    if white and white >= int(np.asarray(image).max()):
        image.info[_WHITE] = white
    elif tags and image.mode == "I":
        image.info[_WHITE] = 0


def _declared(tags: Any) -> int:
    """Value of white that the tags of a TIFF file declare; 0 if none: many writers put 65,535 without a thought."""
    try:
        # The tag has a number for each sample of a pixel.
        full = (1 << int(np.min(tags.get(_BITS, 16)))) - 1
        whites = [white for tag in _LARGEST if tag in tags and 0 < (white := int(np.max(tags[tag]))) <= full]
    except (TypeError, ValueError):  # a damaged tag may hold text
        return 0
    white = min(whites, default=full if full < MAX_WHITE else 0)
    return 0 if white == full == MAX_WHITE else white


def declared_white(image: Image.Image) -> int:
    """Value of white that a decoded file declares by itself; 0 if it leaves it open."""
    return int(image.info.get(_WHITE, 0))


def in_eight_bits(image: Image.Image, white: int, version: int = VERSION) -> Image.Image:
    """Convert an image of any mode that Pillow decodes to L, LA, RGB or RGBA; a profile stays with it, except that CMYK
    becomes sRGB by its own. `white` is the value of white in 16-bit files that declare none.

    Raises:
        ImageError: the pixels have no fixed range.
    """
    mode = image.mode
    if mode.startswith("I"):
        return _from_integers(image, white, version)
    if mode == "F":
        raise ImageError(ImageFault.NO_FIXED_RANGE, "floating-point pixels have no fixed range")
    if mode == "CMYK" and version >= 2 and conversion(image):
        return to_srgb(image)
    transparent = image.info.get("transparency")
    if version >= 2 and isinstance(transparent, tuple) and max(transparent) > 255:
        # A PNG file of 16 bits: Pillow keeps the upper byte of each pixel, but all 16 bits of the transparent colour.
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    gray = mode in ("1", "L", "LA", "La")
    target = ("L" if gray else "RGB") + ("A" if image.has_transparency_data else "")
    return image if mode == target else image.convert(target)


def _from_integers(image: Image.Image, white: int, version: int) -> Image.Image:
    """Convert gray values 0..white to the nearest of 0..255."""
    values = np.asarray(image)  # (H, W)
    info = image.info if version >= 2 else {}
    declared = info.get(_WHITE)
    if declared == 0 or (values.size and (values.min() < 0 or values.max() > (declared or MAX_WHITE))):
        kind = "32-bit pixels" if declared != 0 else "32-bit or signed pixels without MaxSampleValue"
        raise ImageError(ImageFault.NO_FIXED_RANGE, f"{kind} have no fixed range")
    white = declared or white
    # Pillow's own conversion clips at 255 instead of scaling.
    values_wide = np.minimum(values, white).astype(np.uint32 if white <= MAX_WHITE else np.uint64)
    # The nearest, half up, in whole numbers: 2 · 255 · 65,535 + 65,535 is below 2³², the product with 32-bit values is
    # not.
    scaled = (2 * 255 * values_wide + white) // (2 * white)
    gray = Image.fromarray((255 - scaled if info.get(_IS_INVERTED) else scaled).astype(np.uint8))
    # All 16 bits decide (PNG, ISO/IEC 15948, 11.3.2.1), so compare before the scaling, which makes 256 values equal.
    if isinstance(transparent := info.get("transparency"), int):
        gray.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    if profile := info.get("icc_profile"):
        gray.info["icc_profile"] = profile
    return gray


def on_background(image: Image.Image, fill: int) -> Image.Image:
    """Composite an LA or RGBA image on a plain background of value `fill`; return other images unchanged."""
    if image.mode not in ("LA", "RGBA"):
        return image
    opaque = image.convert("L" if image.mode == "LA" else "RGB")
    background = Image.new(opaque.mode, image.size, fill if opaque.mode == "L" else (fill, fill, fill))
    return Image.composite(opaque, background, image.getchannel("A"))
