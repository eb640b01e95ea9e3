"""TIFF directories, in TIFF files and in the EXIF data of others, refused where Pillow or libtiff would take much time
or memory for what they say; the other half of `serving.image_guard`."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass

from gapgate.errors import ImageError, ImageFault

MAX_TAGS = 1_000
"""Tags in a directory of a TIFF file or of EXIF data; a raw photo has 150. 65,535 took 0.7 s."""
MAX_VALUES = 10_000
"""Numbers of one tag, and of all tags of an EXIF directory together. 1.2 million fractions took 17 s."""
MAX_LISTED_VALUES = 200_000
"""Whole numbers of one tag; the palette of a 16-bit TIFF file has 3 · 65,536."""
MAX_PARTS = 65_536
"""Strips or tiles of a TIFF file: 7,000 x 7,000 pixels by 32 x 32 are 48,000. 1.2 million took 12 s and 400 MB."""
MAX_PART_BYTES = 200_000_000
"""One strip or tile, unpacked: 50 megapixels of 4 bytes. libtiff takes the memory for a whole one."""
MIN_TILE_PIXELS = 2_048 * 2_048
"""A tile that covers more than twice the image is refused above this size. 156 bytes took 1.6 GB."""

_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
"""TIFF's whole numbers: type → `struct`'s."""
_TEXTS, _FRACTIONS = (1, 2, 7), (5, 10)
"""Types that Pillow keeps as bytes, and those of which it makes a Python object a value."""
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _ROWS, _PLANES = 256, 257, 258, 262, 277, 278, 284
_TILE_WIDTH, _TILE_HEIGHT, _STRIP_OFFSETS, _TILE_OFFSETS = 322, 323, 273, 324
_YCBCR = 6
_DIRECTORIES = (0x8769, 0x8825, 0xA005)
"""Tags with the place of a further directory that Pillow reads: EXIF, GPS, interoperability."""
_LAYOUT = (_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _ROWS, _PLANES, _TILE_WIDTH, _TILE_HEIGHT)
_UNIQUE = frozenset((*_LAYOUT, _STRIP_OFFSETS, _TILE_OFFSETS, *_DIRECTORIES))


@dataclass(frozen=True, slots=True)
class _Tag:
    """An entry of a TIFF directory."""

    kind: int
    count: int
    place: int
    """Where the value, or its place, stands in the file."""


class _Directory:
    """The tags of a TIFF directory; TIFF 6.0, section 2, and the BigTIFF of libtiff."""

    def __init__(self, data: bytes | memoryview, start: int | None = None) -> None:
        self._data = data
        self._order = ">" if bytes(data[:2]) == b"MM" else "<"
        self._is_big = data[2] == 43
        number, entry = ("Q", "HHQ") if self._is_big else ("H", "HHI")
        if start is None:
            (start,) = self._unpack("Q" if self._is_big else "I", 8 if self._is_big else 4)
        (num_tags,) = self._unpack(number, start)
        if num_tags > MAX_TAGS:
            raise too_many("tags", MAX_TAGS)
        self.tags: dict[int, _Tag] = {}
        place = start + struct.calcsize(number)
        value_at, step = (12, 20) if self._is_big else (8, 12)
        for at in range(place, min(place + step * num_tags, len(data) - step + 1), step):
            tag, kind, count = self._unpack(entry, at)
            if tag in self.tags and tag in _UNIQUE:
                raise _corrupt(f"tag {tag} twice")
            self.tags.setdefault(tag, _Tag(kind, count, at + value_at))

    def _unpack(self, layout: str, place: int) -> tuple[int, ...]:
        if not 0 <= place < len(self._data):  # larger than an index may be, even
            raise struct.error
        return struct.unpack_from(self._order + layout, self._data, place)

    def number(self, tag: int, default: int) -> int:
        """The largest of the first values of `tag`."""
        if tag not in self.tags:
            return default
        found = self.tags[tag]
        if found.kind not in _NUMBERS or not found.count:
            raise _corrupt(f"tag {tag} is no number")
        layout = f"{min(found.count, 16)}{_NUMBERS[found.kind]}"
        place = found.place
        if struct.calcsize(f"={found.count}{_NUMBERS[found.kind]}") > (8 if self._is_big else 4):
            (place,) = self._unpack("Q" if self._is_big else "I", place)
        return max(self._unpack(layout, place))

    def num_values(self, tag: int) -> int:
        """Numbers that Pillow makes of `tag`."""
        found = self.tags.get(tag)
        return found.count if found and found.kind not in _TEXTS else 0

    def further(self) -> list[_Directory]:
        """The directories that this one names."""
        found = []
        for tag in _DIRECTORIES:
            with suppress(struct.error):
                if tag in self.tags and self.tags[tag].kind in _NUMBERS:
                    found.append(_Directory(self._data, self.number(tag, 0)))
        return found


def check_exif(data: memoryview) -> None:
    """Pillow reads the first directory of it; whatever else is wrong with it, Pillow says."""
    while data[:6].tobytes() == b"Exif\0\0":
        data = data[6:]
    with suppress(struct.error, IndexError):
        _Directory(data)


def check_tiff(data: bytes) -> None:
    """The first directory: what libtiff allocates by it and what Pillow reads of it."""
    try:
        directory = _Directory(data)
        _check_parts(directory)
    except (struct.error, IndexError):  # libtiff needs all of it
        raise ImageError(ImageFault.TRUNCATED, "the image is truncated") from None
    for tag, found in directory.tags.items():
        if directory.num_values(tag) > (MAX_VALUES if found.kind in _FRACTIONS else MAX_LISTED_VALUES):
            raise too_costly(f"{found.count:,} values of tag {tag} are too many")
    for further in directory.further():
        for last in (further, *further.further()):
            if sum(map(last.num_values, last.tags)) > MAX_VALUES:
                raise too_many("values in the EXIF data", MAX_VALUES)


def _check_parts(directory: _Directory) -> None:
    """TIFF 6.0, sections 3 and 15: strips, tiles."""
    width, height = directory.number(_WIDTH, 0), directory.number(_HEIGHT, 0)
    if width <= 0 or height <= 0:
        raise _corrupt(f"{width} x {height} pixels")
    samples, are_planes = max(1, directory.number(_SAMPLES, 1)), directory.number(_PLANES, 1) == 2
    pixel_bits = max(1, directory.number(_BITS, 1)) * (1 if are_planes else samples)
    if directory.number(_PHOTOMETRIC, 0) == _YCBCR:
        pixel_bits = max(32, pixel_bits)
    parts = [(width, min(height, directory.number(_ROWS, height)))]
    if {_TILE_WIDTH, _TILE_HEIGHT} & directory.tags.keys():
        parts.append((directory.number(_TILE_WIDTH, width), directory.number(_TILE_HEIGHT, height)))
    for part_width, part_height in parts:
        if part_width <= 0 or part_height <= 0:
            raise _corrupt(f"tiles of {part_width} x {part_height} pixels")
        pixels = part_width * part_height
        if pixels > max(MIN_TILE_PIXELS, 2 * width * height) or pixels * pixel_bits > 8 * MAX_PART_BYTES:
            raise too_costly(f"tiles of {part_width} x {part_height} pixels are too large")
        num_parts = -(-width // part_width) * -(-height // part_height) * (samples if are_planes else 1)
        if max(num_parts, *map(directory.num_values, (_STRIP_OFFSETS, _TILE_OFFSETS))) > MAX_PARTS:
            raise too_many("strips or tiles", MAX_PARTS)


def too_many(what: str, most: int) -> ImageError:
    """The error for more than `most` of something."""
    return too_costly(f"more than {most:,} {what}")


def too_costly(reason: str, remedy: str = "") -> ImageError:
    """The error for a structure that takes long or much memory to decode."""
    return ImageError(ImageFault.TOO_COSTLY, reason, remedy)


def _corrupt(what: str) -> ImageError:
    return ImageError(ImageFault.DAMAGED, f"the image is corrupt: {what}")
