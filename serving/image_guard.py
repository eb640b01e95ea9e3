"""Image files that are small and would cost Pillow much time or memory, refused by their structure alone.

Pillow and the libraries below it trust what a header says about the rest of the file. The limits here are far above
what cameras and programs write, and each stands for an attack that was measured with Pillow 13 on a file of at most
10 MB. Nothing is decoded: a file of 10 MB is looked through in a few milliseconds. What is merely damaged passes:
Pillow says what is wrong with it.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from gapgate.data.formats import SERVED
from gapgate.errors import ImageError, ImageFault
from serving.tiff_guard import check_exif, check_tiff, too_costly, too_many

MAX_CHUNKS = 10_000
"""Chunks of a PNG or WebP file; libpng writes pixels by 8 KiB, 10 MB in 1,300. 830,000 empty ones took 3.6 s."""
MAX_EXTRA_CHUNKS = 1_000
"""Chunks of a PNG file that hold no pixels."""
MAX_COMPRESSED_TEXTS = 32
"""zTXt and iTXt of a PNG file, of which Pillow inflates each to at most 1 MB: 9,000 took 28 s."""
MAX_SEGMENTS = 1_000
"""Segments of a JPEG file before its pixels; a profile of 10 MB needs 160. 2.5 million empty ones took 4.3 s."""
MAX_FILL_BYTES = 65_536
"""Bytes between the segments of a JPEG file, which encoders write to align them. 10 MB took 6.9 s."""
MAX_SCANS = 100
"""Scans of a JPEG file; libjpeg writes 10 into a progressive one. Each goes over all pixels: 64 kB took 22 s."""
MAX_SCAN_PIXELS = 750_000_000
"""Scans times pixels: 15 scans of 50 megapixels. 100 of them took 3.7 s."""
MAX_BLOCKS = 10_000
"""Blocks of a GIF file before its first image, of up to 255 bytes each. 5 million took 1.6 s and 430 MB."""
MAX_RLE_PIXELS = 2**20
"""Pixels of a BMP file with run lengths, which Pillow unpacks in Python: 50 megapixels took 10 s."""


def check(data: bytes) -> None:
    """Refuse what takes long or much memory to decode, or even to open.

    Raises:
        ImageError: none of the formats that a server takes, or the limit that the file exceeds.
    """
    for signature, examine in _EXAMINERS:
        if data.startswith(signature):
            with suppress(struct.error, IndexError):  # the file ends early, for Pillow as well
                examine(data)
            return
    formats = ", ".join(form.name for form in SERVED)
    raise ImageError(ImageFault.UNKNOWN_FORMAT, f"not an image in one of the formats {formats}")


_PNG_CHUNK = struct.Struct(">I4s").unpack_from
_PNG_PIXELS = (b"IDAT", b"fdAT", b"fcTL")


def _check_png(data: bytes) -> None:
    """Portable Network Graphics, third edition, section 5: length, name, data, checksum."""
    place, end, num_extra, num_texts = 8, len(data) - 8, 0, 0
    only_once: set[bytes] = set()
    for _ in range(MAX_CHUNKS):
        if place > end:
            return
        length, name = _PNG_CHUNK(data, place)
        place += 8
        if name not in _PNG_PIXELS:
            if name == b"IEND":
                return
            num_extra += 1
            num_texts += name == b"zTXt" or (name == b"iTXt" and _is_compressed(data, place, place + length))
            if num_extra > MAX_EXTRA_CHUNKS:
                raise too_many("chunks without pixels", MAX_EXTRA_CHUNKS)
            if num_texts > MAX_COMPRESSED_TEXTS:
                raise too_many("compressed texts", MAX_COMPRESSED_TEXTS)
            if name in (b"iCCP", b"eXIf"):
                if name in only_once:
                    raise too_many(f"{name.decode()} chunk", 1)
                only_once.add(name)
            if name == b"eXIf":
                check_exif(memoryview(data)[place : place + length])
        place += length + 4
    raise too_many("chunks", MAX_CHUNKS)


def _is_compressed(data: bytes, start: int, end: int) -> bool:
    """Whether an iTXt chunk says so: keyword, zero, flag."""
    key_end = data.find(b"\0", start, end)
    return data[key_end + 1 : key_end + 2] != b"\0" if key_end >= 0 else False


_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_MARKER_IN_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_BARE_MARKERS = frozenset((0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)))
"""Markers that stand alone: restarts, start and end of the image, and what Pillow takes for such."""
_FRAMES = frozenset((*range(0xC0, 0xD0), 0xDE)) - {0xC4, 0xC8, 0xCC}
_SCAN, _END, _EXIF, _FRAME = 0xDA, 0xD9, 0xE1, 0xC0
_SEGMENT_BYTES = {0xDB: 16_384, 0xED: 2**20, _EXIF: 2**20, _FRAME: 1_024}
"""Bytes of all segments of a kind that Pillow takes apart: quantization tables, Photoshop's blocks, EXIF, frames.
10 MB of each took about 1 s, of EXIF in small pieces over 30 s."""


def _check_jpeg(data: bytes) -> None:
    """ITU-T T.81, annex B: the segments before the first scan as Pillow reads them, then the scans."""
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
        length = max(2, int.from_bytes(data[place : place + 2], "big"))
        if marker in _FRAMES:
            marker = _FRAME
            pixels = int.from_bytes(data[place + 3 : place + 5], "big") * int.from_bytes(
                data[place + 5 : place + 7], "big"
            )
        if marker != _EXIF or data.startswith(b"Exif\0\0", place + 2):
            num_bytes[marker] += length
            if num_bytes[marker] > _SEGMENT_BYTES.get(marker, len(data)):
                raise too_costly(f"segments FF{data[place - 1]:X} are too large")
            if marker == _EXIF:
                exif.append(data[place + 8 : place + length])
        place += length
    else:
        raise too_many("segments", MAX_SEGMENTS)
    if exif:
        check_exif(memoryview(b"".join(exif)))


def _check_scans(data: bytes, place: int, pixels: int) -> None:
    """Count the scans from the first on. The two bytes of the marker occur in what follows the image, too: a video, a
    second image. So the segments are walked, up to the image's end, where a plain count is suspicious."""
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
        if marker == _END:
            return
        if marker not in _BARE_MARKERS:
            place += max(2, int.from_bytes(data[place : place + 2], "big"))


def _check_gif(data: bytes) -> None:
    """GIF89a, appendix A: the blocks before the first image, as Pillow reads them."""
    place = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    left = MAX_BLOCKS
    while left > 0:
        left -= 1
        kind = data[place]
        place += 1
        if kind in b",;":
            return
        if kind != ord("!"):
            continue
        label = data[place]
        place += 1
        if label != 0xFE:  # of other kinds than comments Pillow takes the first block even if it is the empty last one
            is_loop = label == 0xFF and data.startswith(b"NETSCAPE2.0", place + 1) and data[place] >= 11
            for _ in range(1 + is_loop):
                place += 1 + data[place]
        while data[place] and left > 0:
            place += 1 + data[place]
            left -= 1
        place += 1
    raise too_many("blocks before the image", MAX_BLOCKS)


_RIFF_CHUNK = struct.Struct("<4sI").unpack_from


def _check_webp(data: bytes) -> None:
    """RFC 9649, section 2.3: name, length, data, padding to an even length."""
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


_BMP_HEADER = struct.Struct("<IiiHHI").unpack_from
_RUN_LENGTHS = (1, 2)


def _check_bmp(data: bytes) -> None:
    """[MS-WMF] 2.2.2.3, BitmapInfoHeader."""
    header_bytes, width, height, _, _, compression = _BMP_HEADER(data, 14)
    if header_bytes == 12 or compression not in _RUN_LENGTHS:
        return
    pixels = abs(width * height)
    if pixels > MAX_RLE_PIXELS or len(data) > 2**17 + 4 * pixels:
        raise too_costly(f"{pixels:,} pixels are too many for run lengths", "save the image as a PNG file")


_EXAMINERS: tuple[tuple[bytes, Callable[[bytes], None]], ...] = (
    (b"\x89PNG\r\n\x1a\n", _check_png),
    (b"\xff\xd8\xff", _check_jpeg),
    (b"GIF8", _check_gif),
    (b"RIFF", _check_webp),
    (b"BM", _check_bmp),
    *((signature, check_tiff) for signature in (b"II*\0", b"MM\0*", b"II+\0")),
)
"""First bytes of a file → what looks through it. Pillow would also read PPM, byte by byte in Python: 10 MB of spaces
took 19 s. It takes a big-endian BigTIFF for a small one."""
