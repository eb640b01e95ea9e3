"""The image formats that Gapgate reads: the only table of their names, suffixes and media types."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Format:
    """One format of image files."""

    name: str
    """Pillow's name of the format."""
    suffixes: tuple[str, ...]
    """Suffixes of file names, the most common first."""
    media_type: str
    """Media type."""
    other_media_types: tuple[str, ...] = ()
    """Media types that some clients use instead."""


FORMATS = (
    Format("PNG", (".png",), "image/png", ("image/x-png",)),
    Format("JPEG", (".jpg", ".jpeg", ".jfif"), "image/jpeg", ("image/jpg", "image/pjpeg")),
    Format("WEBP", (".webp",), "image/webp"),
    Format("BMP", (".bmp",), "image/bmp", ("image/x-ms-bmp",)),
    Format("GIF", (".gif",), "image/gif"),
    Format("TIFF", (".tif", ".tiff"), "image/tiff"),
    Format(
        "PPM",
        (".ppm", ".pgm", ".pbm", ".pnm"),
        "image/x-portable-anymap",
        ("image/x-portable-pixmap", "image/x-portable-graymap", "image/x-portable-bitmap"),
    ),
)
"""Formats that training and the server read."""
SERVED_PIXELS = 25_000_000
"""Most pixels of an image that the server takes unless an option says otherwise; training takes more."""


def suffixes(formats: tuple[Format, ...]) -> frozenset[str]:
    """Return the suffixes of file names in any of these formats, in lower case."""
    return frozenset(suffix for form in formats for suffix in form.suffixes)
