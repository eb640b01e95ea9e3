"""Checks of the structure of image files: refuse small files that would cost Pillow much time or memory.

Pillow and the libraries below it trust what a header says about the rest of the file. The limits here are far above
what cameras and programs write, and each stands for an attack that was measured with Pillow 13 on a file of at most
10 MB. Nothing is decoded: a file of 10 MB is checked in a few milliseconds. A file that is only damaged passes, and
Pillow finds the damage.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from gapgate.data.formats import FORMATS, HEAD_BYTES, Format, format_of
from gapgate.data.picture.opening import unknown_format
from gapgate.errors import ImageError, ImageFault
from serving.guard.memory import Memory
from serving.guard.tiff_guard import check_exif, check_tiff, too_costly, too_many

SERVED = tuple(form for form in FORMATS if form.is_served)
"""Formats that a server takes unless an option says otherwise."""
MAX_CHUNKS = 10_000
"""Chunks of a PNG or WebP file; libpng writes pixels by 8 KiB, 10 MB in 1,300. 830,000 empty ones took 3.6 s."""
MAX_EXTRA_CHUNKS = 1_000
"""Chunks of a PNG file that hold no pixels."""
MAX_COMPRESSED_TEXTS = 32
"""Chunks zTXt and iTXt of a PNG file; Pillow inflates each of them, to at most 1 MB: 9,000 took 28 s."""
MAX_SEGMENTS = 1_000
"""Segments of a JPEG file before its pixels; an ICC profile of 10 MB needs 160. 2.5 million empty ones took 4.3 s."""
MAX_FILL_BYTES = 65_536
"""Fill bytes between the segments of a JPEG file, which encoders write for alignment. 10 MB took 6.9 s."""
MAX_SCANS = 100
"""Scans of a JPEG file; libjpeg writes 10 into a progressive one. Each visits all pixels: a file of 64 kB took 22 s."""
MAX_SCAN_PIXELS = 750_000_000
"""Product of scans and pixels: 15 scans of 50 megapixels. 100 of them took 3.7 s."""
MAX_BLOCKS = 10_000
"""Blocks of a GIF file before its first image; each has up to 255 bytes. 5 million took 1.6 s and 430 MB."""
MAX_RLE_PIXELS = 2**20
"""Pixels of a BMP file with run-length encoding, which Pillow decodes in Python: 50 megapixels took 10 s."""
MAX_PPM_PIXELS = 2**16
"""Pixels of a PPM file that Pillow decodes in Python: one in decimal digits, or with another maximum than 255 or 65535.
Four times as many took 0.8 s."""
MAX_PPM_COMMENTS = 100
"""Comments between the digits of a PPM file; each of them copies the rest of a block of 1 MiB."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on image files."""

    max_pixels: int
    formats: tuple[Format, ...] | None = SERVED
    """Formats that are taken; None for files of the user's own (`check`)."""
    memory: Memory | None = None
    """Budget for large images; None: no bound."""


def check(data: bytes, served: tuple[Format, ...] | None = SERVED) -> None:
    """Refuse a file that takes long or much memory to decode, or even to open.

    `served` are the formats that a server takes; None for files of the user's own: then TIFF files are not checked.

    Raises:
        ImageError: the file has none of the formats, or exceeds a limit.
    """
    form = format_of(data)
    if form is None:
        raise unknown_format(served or FORMATS)
    if served is not None and form not in served:
        reason, remedy = f"a {form.name} file, which this server does not take", "save it as PNG or JPEG"
        raise ImageError(
            ImageFault.UNSUPPORTED, reason, f"{remedy}, or set GAPGATE_FORMATS=+{form.option} for the server"
        )
    examine = _EXAMINERS.get(form.name)
    if examine and not (served is None and examine is check_tiff):
        with suppress(struct.error, IndexError):  # the file ends early, for Pillow as well
            examine(data)


_PNG_CHUNK = struct.Struct(">I4s").unpack_from  # bytes of the data, name
_PNG_PIXELS = (b"IDAT", b"fdAT", b"fcTL")


def _check_png(data: bytes) -> None:
    """Check the chunks of a PNG file: length, name, data, checksum (PNG, third edition, section 5)."""
    # From behind the signature to the last place where a length and a name fit.
    place, end, num_extra, num_texts = 8, len(data) - 8, 0, 0
    only_once: set[bytes] = set()
    for _ in range(MAX_CHUNKS):
        if place > end:
            return
        length, name = _PNG_CHUNK(data, place)
        place += 8
        if name not in _PNG_PIXELS:
            if name == b"IEND":  # Pillow reads no further
                return
            num_extra += 1
            num_texts += name == b"zTXt" or (name == b"iTXt" and _is_compressed(data, place, place + length))
            if num_extra > MAX_EXTRA_CHUNKS:
                raise too_many("chunks without pixels", MAX_EXTRA_CHUNKS)
            if num_texts > MAX_COMPRESSED_TEXTS:
                raise too_many("compressed texts", MAX_COMPRESSED_TEXTS)
            # The specification allows one of each. Pillow inflates every profile to up to 1 MB, and a small chunk is
            # enough for that.
            if name in (b"iCCP", b"eXIf"):
                if name in only_once:
                    raise too_many(f"{name.decode()} chunk", 1)
                only_once.add(name)
            if name == b"eXIf":
                check_exif(memoryview(data)[place : place + length])
        place += length + 4  # data and checksum
    raise too_many("chunks", MAX_CHUNKS)


def _is_compressed(data: bytes, start: int, end: int) -> bool:
    """True if the text of an iTXt chunk is compressed; it begins with a keyword, a zero byte and the flag."""
    # The specification knows the flags 0 and 1; Pillow inflates for any but 0.
    key_end = data.find(b"\0", start, end)
    return data[key_end + 1 : key_end + 2] != b"\0" if key_end >= 0 else False


# FF 00 is a data byte FF, FF FF is fill. Between the bytes of a scan stand restart markers (D0 to D7) as well.
_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_MARKER_IN_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_BARE_MARKERS = frozenset((0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)))
"""Markers without a segment: restarts, start and end of the image, and those that Pillow reads as such."""
_FRAMES = frozenset((*range(0xC0, 0xD0), 0xDE)) - {0xC4, 0xC8, 0xCC}
"""Markers that Pillow reads as frame headers; C4 and CC are tables, C8 is reserved."""
_SCAN, _END, _EXIF, _FRAME = 0xDA, 0xD9, 0xE1, 0xC0
_SEGMENT_BYTES = {0xDB: 16_384, 0xED: 2**20, _EXIF: 2**20, _FRAME: 1_024}
"""Most bytes in all segments of one kind that Pillow parses: quantization tables, Photoshop's blocks, EXIF, frames.
10 MB of one kind took about 1 s, of EXIF in small pieces over 30 s."""


def _check_jpeg(data: bytes) -> None:
    """Check a JPEG file's segments up to the first scan, as Pillow reads them, and its scans (ITU-T T.81, annex B)."""
    # `fill` is the rest of the fill bytes for the whole file, so a search can never pass over more than that.
    place, fill, pixels = 2, MAX_FILL_BYTES, 0
    exif: list[bytes] = []
    num_bytes: Counter[int] = Counter()
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(data, place, place + fill + 2)
        if found is None:
            if len(data) - place > fill:
                raise too_costly(f"{fill:,} bytes between segments are the limit")
            break
        fill -= found.start() - place
        place = found.end()
        marker = data[place - 1]
        if marker == _SCAN:
            _check_scans(data, place, pixels)
            break
        if marker in _BARE_MARKERS:
            continue
        # The length counts its own two bytes. Less than that would not move on, and Pillow moves on by two as well.
        length = max(2, int.from_bytes(data[place : place + 2], "big"))
        if marker in _FRAMES:
            marker = _FRAME  # all kinds share one limit
            # Behind the length: 1 byte of precision, 2 of height, 2 of width.
            pixels = int.from_bytes(data[place + 3 : place + 5], "big") * int.from_bytes(
                data[place + 5 : place + 7], "big"
            )
        # APP1 also carries XMP, which Pillow keeps as it is.
        if marker != _EXIF or data.startswith(b"Exif\0\0", place + 2):
            num_bytes[marker] += length
            if num_bytes[marker] > _SEGMENT_BYTES.get(marker, len(data)):
                raise too_costly(f"segments FF{data[place - 1]:X} are too large")
            if marker == _EXIF:
                exif.append(data[place + 8 : place + length])
        place += length
    else:
        raise too_many("segments", MAX_SEGMENTS)
    if exif:  # Pillow joins the pieces before it reads the directory
        check_exif(memoryview(b"".join(exif)))


def _check_scans(data: bytes, place: int, pixels: int) -> None:
    """Check the number of scans, from the first one at `place`.

    A plain count of the marker's two bytes is quick, but it counts too many: a video or a second image can follow. Only
    if it reaches the limit, the segments are walked up to the end of the image.
    """
    most = min(MAX_SCANS, max(1, MAX_SCAN_PIXELS // max(1, pixels)))
    if data.count(b"\xff\xda", place) < most:
        return
    num_scans = num_segments = 1
    while found := _MARKER_IN_SCAN.search(data, place):
        place = found.end()
        marker = data[place - 1]
        num_segments += 1
        num_scans += marker == _SCAN
        if num_scans > most:
            raise too_costly(f"more than {most} scans of {pixels:,} pixels", "save the image as a baseline JPEG file")
        if num_segments > MAX_SEGMENTS:
            raise too_many("segments", MAX_SEGMENTS)
        # Only an end that is a marker of its own: the same bytes inside a comment are passed over with its segment.
        if marker == _END:
            return
        if marker not in _BARE_MARKERS:
            place += max(2, int.from_bytes(data[place : place + 2], "big"))


def _check_gif(data: bytes) -> None:
    """Check the blocks of a GIF file before its first image, as Pillow reads them (GIF89a, appendix A)."""
    # 6 bytes of signature, 7 of screen descriptor. Bit 7 of its flags announces a colour table, bits 0 to 2 are n for
    # 2 ** (n + 1) colours of 3 bytes.
    place = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    left = MAX_BLOCKS
    while left > 0:
        left -= 1
        kind = data[place]
        place += 1
        if kind in b",;":  # an image, or the end of the file
            return
        if kind != ord("!"):  # Pillow passes over unknown bytes one by one
            continue
        label = data[place]
        place += 1
        # Except for a comment (FE), Pillow reads a first block and then goes on to an empty one, even if the first was
        # empty and so the last. It does the same for a second block behind NETSCAPE2.0, the loop count.
        if label != 0xFE:
            is_loop = label == 0xFF and data.startswith(b"NETSCAPE2.0", place + 1) and data[place] >= 11
            for _ in range(1 + is_loop):
                place += 1 + data[place]
        # Each block is its length (1 byte) and its data; length 0 ends the extension.
        while data[place] and left > 0:
            place += 1 + data[place]
            left -= 1
        place += 1
    raise too_many("blocks before the image", MAX_BLOCKS)


_RIFF_CHUNK = struct.Struct("<4sI").unpack_from  # name, bytes of the data


def _check_webp(data: bytes) -> None:
    """Check the chunks of a WebP file: name, length, data, padding to an even length (RFC 9649, section 2.3)."""
    # The file header is `RIFF`, the bytes that follow, `WEBP`: 12 bytes.
    end = min(len(data), 8 + _RIFF_CHUNK(data, 0)[1])
    place = 12
    for _ in range(MAX_CHUNKS):
        if place + 8 > end:
            return
        name, length = _RIFF_CHUNK(data, place)
        place += 8
        if name == b"EXIF":
            check_exif(memoryview(data)[place : place + length])
        place += length + length % 2
    raise too_many("chunks", MAX_CHUNKS)


_BMP_HEADER = struct.Struct("<IiiHHI").unpack_from  # bytes of the header, width, height, planes, bits, compression
_RUN_LENGTHS = (1, 2)
"""Compressions by run lengths: BI_RLE8 and BI_RLE4."""


def _check_bmp(data: bytes) -> None:
    """Check the header of a BMP file behind its first 14 bytes (BitmapInfoHeader, [MS-WMF] 2.2.2.3)."""
    header_bytes, width, height, _, _, compression = _BMP_HEADER(data, 14)
    if header_bytes == 12 or compression not in _RUN_LENGTHS:
        return  # a header of 12 bytes, from OS/2, has no compression
    pixels = abs(width * height)  # a negative height means rows from top to bottom
    # A pixel needs at most one code of 2 bytes. A file far beyond that consists of codes that paint nothing.
    if pixels > MAX_RLE_PIXELS or len(data) > 2**17 + 4 * pixels:
        raise too_costly(f"{pixels:,} pixels are too many for run lengths", "save the image as a PNG file")


_PPM_COMMENT = re.compile(rb"#[^\r\n]*[\r\n]")
# Bitmaps (1 and 4) have no maximum; for the others it must stand here, since a comment without end can precede it.
_PPM_HEADER = re.compile(rb"P([1-6])\s+(\d{1,10})\s+(\d{1,10})(?:\s+(\d{1,5}))?\s")
_PPM_IN_DIGITS = b"123"
_PPM_MAXIMA_IN_C = {b"5": (b"255", b"65535"), b"6": (b"255",)}
"""Kind of a PPM file → maxima with which Pillow decodes it in C, as it does bitmaps (4), which have none."""


def _check_ppm(data: bytes) -> None:
    """Check the header of a PPM, PGM or PBM file, and what it makes Pillow do (Netpbm: ppm(5), pgm(5), pbm(5))."""
    head = _PPM_HEADER.match(_PPM_COMMENT.sub(b" ", data[:HEAD_BYTES]))
    if head is None or (head[4] is None and head[1] not in b"14"):
        # Pillow reads the header with its comments byte by byte: 10 MB of spaces took 19 s.
        if len(data) > HEAD_BYTES:
            raise too_costly(f"its header has no end within {HEAD_BYTES:,} bytes")
        return
    kind, width, height, maximum = head.groups()
    pixels = int(width) * int(height)
    is_in_c = kind == b"4" or maximum in _PPM_MAXIMA_IN_C.get(kind, ())
    if not is_in_c and pixels > MAX_PPM_PIXELS:
        raise too_costly(f"{pixels:,} pixels are too many for this kind of PPM", "save the image as a PNG file")
    if kind in _PPM_IN_DIGITS and data.count(b"#") > MAX_PPM_COMMENTS:
        raise too_many("comments", MAX_PPM_COMMENTS)


_EXAMINERS: dict[str, Callable[[bytes], None]] = {
    "PNG": _check_png,
    "JPEG": _check_jpeg,
    "GIF": _check_gif,
    "WEBP": _check_webp,
    "BMP": _check_bmp,
    "PPM": _check_ppm,
    "TIFF": check_tiff,
}
"""Name of a format → its check. For AVIF and HEIC the limit of pixels is all."""
