"""The image formats that Gapgate reads: the one table of their names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Format:
    """One format of image files."""

    name: str
    """Pillow's."""
    suffixes: tuple[str, ...]
    """The most usual first."""
    media_type: str = ""
    """Empty for a format that the server does not take."""
    other_media_types: tuple[str, ...] = ()
    """What some clients call it."""


FORMATS = (
    Format("PNG", (".png",), "image/png", ("image/x-png",)),
    Format("JPEG", (".jpg", ".jpeg", ".jfif"), "image/jpeg", ("image/jpg", "image/pjpeg")),
    Format("WEBP", (".webp",), "image/webp"),
    Format("BMP", (".bmp",), "image/bmp", ("image/x-ms-bmp",)),
    Format("GIF", (".gif",), "image/gif"),
    Format("TIFF", (".tif", ".tiff"), "image/tiff"),
    # Pillow reads its header byte by byte in Python, so a server that takes it can be held up for long.
    Format("PPM", (".ppm", ".pgm", ".pbm", ".pnm")),
)
SERVED = tuple(form for form in FORMATS if form.media_type)
"""Formats that a server takes from its clients."""


def suffixes(formats: tuple[Format, ...]) -> frozenset[str]:
    """The suffixes of file names in any of these formats, in lower case."""
    return frozenset(suffix for form in formats for suffix in form.suffixes)
