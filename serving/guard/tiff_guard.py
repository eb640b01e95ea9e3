"""Checks of TIFF directories, in TIFF files and in the EXIF data of other formats, for `serving.guard.image_guard`:
refuse those on which Pillow or libtiff would spend much time or memory."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass

from gapgate.errors import ImageError, ImageFault

MAX_TAGS = 1_000
"""Tags in a directory of a TIFF file or of EXIF data; a raw photo has 150. 65,535 took 0.7 s."""
MAX_VALUES = 10_000
"""Fractions of one tag, and numbers of all tags of an EXIF directory together. 1.2 million fractions took 17 s."""
MAX_LISTED_VALUES = 200_000
"""Integers of one tag; the palette of a 16-bit TIFF file has 3 · 65,536."""
MAX_PARTS = 65_536
"""Strips or tiles of a TIFF file: 7,000 x 7,000 pixels by 32 x 32 are 48,000. 1.2 million took 12 s and 400 MB."""
MAX_PART_BYTES = 200_000_000
"""Bytes of one decoded strip or tile: 50 megapixels of 4 bytes. libtiff allocates memory for a whole one."""
MIN_TILE_PIXELS = 2_048 * 2_048
"""Pixels of a tile above which it may cover at most twice the image. A file of 156 bytes took 1.6 GB."""

_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
"""Integer types of TIFF → their letters in `struct`."""
_TEXTS, _FRACTIONS = (1, 2, 7), (5, 10)
"""Types that Pillow keeps as bytes, and fractions, of which Pillow makes one Python object for each value."""
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _ROWS, _PLANES = 256, 257, 258, 262, 277, 278, 284
_TILE_WIDTH, _TILE_HEIGHT, _STRIP_OFFSETS, _TILE_OFFSETS = 322, 323, 273, 324
_YCBCR = 6  # a value of the tag for the photometric interpretation
_DIRECTORIES = (0x8769, 0x8825, 0xA005)
"""Tags with the offset of another directory that Pillow reads: EXIF, GPS, interoperability."""
_LAYOUT = (_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _ROWS, _PLANES, _TILE_WIDTH, _TILE_HEIGHT)
_UNIQUE = frozenset((*_LAYOUT, _STRIP_OFFSETS, _TILE_OFFSETS, *_DIRECTORIES))
"""Tags that must not occur twice: this check could look at another value than libtiff uses."""


@dataclass(frozen=True, slots=True)
class _Tag:
    """An entry of a TIFF directory."""

    kind: int
    """Type of the values, 1 to 18."""
    count: int
    """Number of values."""
    place: int
    """Offset in the file of the values, or of their offset if they do not fit into the entry."""


class _Directory:
    """The tags of a TIFF directory, classic (TIFF 6.0, section 2) or BigTIFF (as libtiff defines it)."""

    def __init__(self, data: bytes | memoryview, start: int | None = None) -> None:
        self._data = data
        self._order = ">" if bytes(data[:2]) == b"MM" else "<"
        # The number behind the byte order is 42, or 43 in a BigTIFF. Pillow too finds 43 in little-endian order only.
        self._is_big = data[2] == 43
        # An entry is tag, type, count and a value or offset: 2 + 2 + 4 + 4 bytes, in a BigTIFF 2 + 2 + 8 + 8.
        number, entry = ("Q", "HHQ") if self._is_big else ("H", "HHI")
        if start is None:
            (start,) = self._unpack("Q" if self._is_big else "I", 8 if self._is_big else 4)
        (num_tags,) = self._unpack(number, start)
        if num_tags > MAX_TAGS:
            raise too_many("tags", MAX_TAGS)
        self.tags: dict[int, _Tag] = {}
        place = start + struct.calcsize(number)
        value_at, step = (12, 20) if self._is_big else (8, 12)
        # A directory may end early with the file; the entries that are there count.
        for at in range(place, min(place + step * num_tags, len(data) - step + 1), step):
            tag, kind, count = self._unpack(entry, at)
            if tag in self.tags and tag in _UNIQUE:
                raise _corrupt(f"tag {tag} twice")
            self.tags.setdefault(tag, _Tag(kind, count, at + value_at))

    def _unpack(self, layout: str, place: int) -> tuple[int, ...]:
        # Offsets come from the file: `unpack_from` would count a negative one from the end, and raise OverflowError for
        # one of 64 bits.
        if not 0 <= place < len(self._data):
            raise struct.error
        return struct.unpack_from(self._order + layout, self._data, place)

    def number(self, tag: int, default: int) -> int:
        """Return the largest of the first 16 values of `tag`; `default` if the tag is missing.

        Raises:
            ImageError: the tag is not an integer.
            struct.error: the file ends before the values.
        """
        if tag not in self.tags:
            return default
        found = self.tags[tag]
        if found.kind not in _NUMBERS or not found.count:
            raise _corrupt(f"tag {tag} is no number")
        # 16, because the bits of a pixel are a value for each sample; a list of a million would take its time here too.
        layout = f"{min(found.count, 16)}{_NUMBERS[found.kind]}"
        place = found.place
        # Values that fit into the 4 or 8 bytes of the entry stand there; else it holds their offset.
        if struct.calcsize(f"={found.count}{_NUMBERS[found.kind]}") > (8 if self._is_big else 4):
            (place,) = self._unpack("Q" if self._is_big else "I", place)
        return max(self._unpack(layout, place))

    def num_values(self, tag: int) -> int:
        """Return how many numbers Pillow would make of `tag`."""
        found = self.tags.get(tag)
        return found.count if found and found.kind not in _TEXTS else 0

    def further(self) -> list[_Directory]:
        """Return the directories that this one refers to; those that cannot be read are left out, as in Pillow."""
        found = []
        for tag in _DIRECTORIES:
            with suppress(struct.error):
                if tag in self.tags and self.tags[tag].kind in _NUMBERS:
                    found.append(_Directory(self._data, self.number(tag, 0)))
        return found


def check_exif(data: memoryview) -> None:
    """Check the first directory of EXIF data, which is all that Pillow reads of it; other damage is left to Pillow."""
    # Pillow takes off the prefix twice at most; a third one would be no directory for it.
    while data[:6].tobytes() == b"Exif\0\0":
        data = data[6:]
    with suppress(struct.error, IndexError):
        _Directory(data)


def check_tiff(data: bytes) -> None:
    """Check the first directory of a TIFF file: the memory that libtiff allocates and the values that Pillow reads."""
    try:
        directory = _Directory(data)
        _check_parts(directory)
    except (struct.error, IndexError):  # unlike EXIF data, a file is useless without its directory
        raise ImageError(ImageFault.TRUNCATED, "the image is truncated") from None
    for tag, found in directory.tags.items():
        if directory.num_values(tag) > (MAX_VALUES if found.kind in _FRACTIONS else MAX_LISTED_VALUES):
            raise too_costly(f"{found.count:,} values of tag {tag} are too many")
    # Two levels: the file names the EXIF directory, and that one the directory of interoperability.
    for further in directory.further():
        for last in (further, *further.further()):
            if sum(map(last.num_values, last.tags)) > MAX_VALUES:
                raise too_many("values in the EXIF data", MAX_VALUES)


def _check_parts(directory: _Directory) -> None:
    """Check the number and size of strips (TIFF 6.0, section 3) and tiles (section 15)."""
    width, height = directory.number(_WIDTH, 0), directory.number(_HEIGHT, 0)
    if width <= 0 or height <= 0:
        raise _corrupt(f"{width} x {height} pixels")
    # In separate planes (PlanarConfiguration 2) a part holds one sample of each pixel, and there are parts for each.
    samples, are_planes = max(1, directory.number(_SAMPLES, 1)), directory.number(_PLANES, 1) == 2
    pixel_bits = max(1, directory.number(_BITS, 1)) * (1 if are_planes else samples)
    if directory.number(_PHOTOMETRIC, 0) == _YCBCR:
        pixel_bits = max(32, pixel_bits)  # decoded to RGBA
    # RowsPerStrip may be 2 ** 32 - 1, its default: one strip for the whole image.
    parts = [(width, min(height, directory.number(_ROWS, height)))]
    if {_TILE_WIDTH, _TILE_HEIGHT} & directory.tags.keys():
        parts.append((directory.number(_TILE_WIDTH, width), directory.number(_TILE_HEIGHT, height)))
    for part_width, part_height in parts:
        if part_width <= 0 or part_height <= 0:
            raise _corrupt(f"tiles of {part_width} x {part_height} pixels")
        pixels = part_width * part_height
        if pixels > max(MIN_TILE_PIXELS, 2 * width * height) or pixels * pixel_bits > 8 * MAX_PART_BYTES:
            raise too_costly(f"tiles of {part_width} x {part_height} pixels are too large")
        # The number that the sizes ask for, and the number of offsets in the file: either costs time.
        num_parts = -(-width // part_width) * -(-height // part_height) * (samples if are_planes else 1)
        if max(num_parts, *map(directory.num_values, (_STRIP_OFFSETS, _TILE_OFFSETS))) > MAX_PARTS:
            raise too_many("strips or tiles", MAX_PARTS)


def too_many(what: str, most: int) -> ImageError:
    """Return the error for more than `most` of something."""
    return too_costly(f"more than {most:,} {what}")


def too_costly(reason: str, remedy: str = "") -> ImageError:
    """Return the error for a structure that takes long or much memory to decode."""
    return ImageError(ImageFault.TOO_COSTLY, reason, remedy)


def _corrupt(what: str) -> ImageError:
    return ImageError(ImageFault.DAMAGED, f"the image is corrupt: {what}")
