"""The image formats that Gapgate reads: the only table of their names, suffixes, media types and first bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Format:
    """One format of image files."""

    name: str
    """Name for people; in small letters it is the name in `GAPGATE_FORMATS`."""
    suffixes: tuple[str, ...]
    """Suffixes of file names, the most common first."""
    media_type: str
    """Media type."""
    first_bytes: re.Pattern[bytes]
    """Beginning of every such file, and hardly of any other data: at least four bytes are given."""
    other_media_types: tuple[str, ...] = ()
    """Media types that some clients use instead."""
    is_served: bool = True
    """True if the server takes it unless an option says otherwise."""
    plugin: str = ""
    """Pillow's name of the format where it is another."""

    @property
    def pillow(self) -> str:
        """Pillow's name of the format."""
        return self.plugin or self.name

    @property
    def option(self) -> str:
        """Name of the format in `GAPGATE_FORMATS`."""
        return self.name.lower()


def _begins(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


# White space and comments between the numbers of a Netpbm header.
_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"

FORMATS = (
    Format("PNG", (".png",), "image/png", _begins(rb"\x89PNG\r\n\x1a\n"), ("image/x-png",)),
    Format("JPEG", (".jpg", ".jpeg", ".jfif"), "image/jpeg", _begins(rb"\xff\xd8\xff"), ("image/jpg", "image/pjpeg")),
    Format("WEBP", (".webp",), "image/webp", _begins(rb"RIFF....WEBP")),
    # The sizes of a header that Pillow knows: by two letters alone, any tensor could be a BMP file.
    Format(
        "BMP", (".bmp",), "image/bmp", _begins(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"), ("image/x-ms-bmp",)
    ),
    Format("GIF", (".gif",), "image/gif", _begins(rb"GIF8[79]a")),
    Format(
        "PPM",
        (".ppm", ".pgm", ".pbm", ".pnm"),
        "image/x-portable-anymap",
        _begins(rb"P[1-6]" + _GAP + rb"\d+" + _GAP + rb"\d"),
        ("image/x-portable-pixmap", "image/x-portable-graymap", "image/x-portable-bitmap"),
    ),
    # Not served unless asked for: libtiff, dav1d and libheif are the decoders with the most holes found in them, and a
    # browser turns AVIF and HEIC into PNG itself.
    Format(
        "TIFF",
        (".tif", ".tiff"),
        "image/tiff",
        # Both byte orders, the same with the magic number turned round (Pillow reads them), and BigTIFF (43 is "+").
        _begins(rb"II\*\0|MM\0\*|MM\*\0|II\0\*|II\+\0|MM\0\+"),
        is_served=False,
    ),
    Format(
        "AVIF",
        (".avif", ".avifs"),
        "image/avif",
        # ISO/IEC 14496-12: length of the box, ftyp, major brand, version, compatible brands. mif1 and msf1 say no more
        # than "image" and "sequence": it is AVIF if a compatible brand says so, else HEIC, which therefore comes after
        # it.
        _begins(rb"....ftyp(?:avi[fs]|m[is]f1.{4}(?:.{4}){0,16}?avi[fs])"),
        is_served=False,
    ),
    Format(
        "HEIC",
        (".heic", ".heif", ".hif", ".heics", ".heifs"),
        "image/heic",
        _begins(rb"....ftyp(?:hei[cxms]|hev[cxms]|m[is]f1)"),
        ("image/heif", "image/heic-sequence", "image/heif-sequence"),
        is_served=False,
        plugin="HEIF",
    ),
)
"""Formats that training reads. The server reads those that are `is_served`, and others by an option."""
MAX_PIXELS = 50_000_000
"""Most pixels of an image, in training and in the server unless a setting says otherwise: those of a phone."""
HEAD_BYTES = 1_024
"""Length of the beginning of a file that `format_of` looks at."""


def format_of(head: bytes) -> Format | None:
    """Return the format of a file by its first `HEAD_BYTES` bytes (or all of it); None for no image."""
    return next((form for form in FORMATS if form.first_bytes.match(head, 0, HEAD_BYTES)), None)


def suffixes(formats: tuple[Format, ...]) -> frozenset[str]:
    """Return the suffixes of file names in any of these formats, in lower case."""
    return frozenset(suffix for form in formats for suffix in form.suffixes)


def listed(formats: tuple[Format, ...]) -> str:
    """Return the names of formats for a message."""
    return ", ".join(form.name for form in formats)
