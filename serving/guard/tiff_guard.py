"""Checks of TIFF directories, in TIFF files and in the EXIF data of other formats, for `serving.guard.image_guard`:
refuse all but plain TIFF files, and those on which Pillow would spend much time or memory."""

from __future__ import annotations

import struct
from contextlib import suppress
from itertools import chain

from gapgate.errors import ImageError, ImageFault

MAX_TAGS = 1_000
"""Tags in a directory of a TIFF file or of EXIF data; a raw photo has 150. 65,535 took 0.7 s."""
MAX_VALUES = 10_000
"""Numbers in the directories behind the first; Pillow makes an object of each. 1.2 million fractions took 17 s."""
MAX_LISTED_VALUES = 200_000
"""Numbers in the first directory; the palette of a 16-bit TIFF file has 3 · 65,536."""
MAX_STRIPS = 65_536
"""Strips of a TIFF file. 1.2 million took 12 s and 400 MB."""

_NUMBERS = {1: "B", 3: "H", 4: "I"}
"""Unsigned types of TIFF → their letters in `struct`."""
_TEXTS, _FRACTIONS = (1, 2, 7), (5, 10)
"""Types that Pillow keeps as bytes, and fractions, which take 20 times as long as whole numbers."""
_WIDTH, _HEIGHT, _STRIPS, _ROWS = 256, 257, 273, 278
_TILES = (322, 323, 324, 325)
_DIRECTORIES = (0x8769, 0x8825, 0xA005)
"""Tags with the offset of another directory that Pillow reads: EXIF, GPS, interoperability."""
_PLAIN = {
    258: ("{} bits a sample", {8, 16}, 1),
    259: ("compression {}", {1, 5, 8, 32_946}, 1),  # none, LZW, deflate and its older number
    262: ("photometric interpretation {}", {0, 1, 2, 3}, 0),  # white or black is zero, RGB, palette
    277: ("{} samples a pixel", {1, 2, 3, 4}, 1),
    284: ("planar configuration {}", {1}, 1),
    317: ("predictor {}", {1, 2}, 1),
    339: ("sample format {} (floating-point or signed)", {1, 4}, 1),  # unsigned, undefined
}
"""Tag → its words for a message, the values that are taken, and the default (TIFF 6.0, sections 3 to 6, 13, 14, 19)."""
_REMEDY = "save it as PNG, or as TIFF of one page, with 8 or 16 bits, uncompressed or with LZW or deflate"


class _Directory:
    """The tags of a directory, classic (TIFF 6.0, section 2) or BigTIFF (as libtiff defines it)."""

    def __init__(self, data: bytes | memoryview, start: int | None = None) -> None:
        self._data = data
        self._order = ">" if bytes(data[:2]) == b"MM" else "<"
        # The number behind the byte order is 42, or 43 in a BigTIFF. Pillow too finds 43 in little-endian order only.
        is_big = data[2] == 43
        # An entry is tag, type, count and a value or offset: 2 + 2 + 4 + 4 bytes, in a BigTIFF 2 + 2 + 8 + 8.
        number, entry, step = ("Q", "HHQQ", 20) if is_big else ("H", "HHII", 12)
        if start is None:
            (start,) = self._unpack("Q" if is_big else "I", 8 if is_big else 4)
        (num_tags,) = self._unpack(number, start)
        if num_tags > MAX_TAGS:
            raise too_many("tags", MAX_TAGS)
        self.tags: dict[int, tuple[int, int, int]] = {}
        """Tag → type, number of values, and the place of the entry."""
        self.is_clear = True
        """False if a tag occurs twice: this check could look at another value than libtiff uses."""
        first = start + struct.calcsize(number)
        self.end = first + step * num_tags
        # A directory may end early with the file; the entries that are there count.
        for place in range(first, min(self.end, len(data) - step + 1), step):
            tag, kind, count, _ = self._unpack(entry, place)
            self.is_clear &= tag not in self.tags
            self.tags.setdefault(tag, (kind, count, place))

    def _unpack(self, layout: str, place: int) -> tuple[int, ...]:
        # Offsets come from the file: `unpack_from` would count a negative one from the end, and raise OverflowError for
        # one of 64 bits.
        if not 0 <= place < len(self._data):
            raise struct.error
        return struct.unpack_from(self._order + layout, self._data, place)

    def values(self, tag: int, default: int) -> tuple[int, ...]:
        """Return the first 16 values of a tag in a classic directory.

        Raises:
            struct.error: the file ends before the values, or they are no whole numbers.
        """
        if tag not in self.tags:
            return (default,)
        kind, count, place = self.tags[tag]
        if kind not in _NUMBERS or not count:
            raise struct.error
        # Values that fit into the 4 bytes of the entry stand there; else it holds their offset.
        place += 8
        if struct.calcsize(f"={min(count, 16)}{_NUMBERS[kind]}") > 4:
            (place,) = self._unpack("I", place)
        return self._unpack(f"{min(count, 16)}{_NUMBERS[kind]}", place)

    def next(self) -> int:
        """Return the offset of the directory of the next page; 0 if there is none."""
        return self._unpack("I", self.end)[0]

    def num_values(self) -> int:
        """Return how many numbers Pillow would make of the tags; a fraction counts as 20."""
        return sum(count * (20 if kind in _FRACTIONS else kind not in _TEXTS) for kind, count, _ in self.tags.values())

    def further(self) -> list[_Directory]:
        """Return the directories that this one refers to; those that cannot be read are left out, as in Pillow."""
        found = []
        for tag in _DIRECTORIES:
            with suppress(struct.error):
                if tag in self.tags:
                    found.append(_Directory(self._data, self.values(tag, 0)[0]))
        return found


def check_exif(data: memoryview) -> None:
    """Check the first directory of EXIF data, which is all that Pillow reads of it; other damage is left to Pillow."""
    # Pillow takes off the prefix twice at most; a third one would be no directory for it.
    while data[:6].tobytes() == b"Exif\0\0":
        data = data[6:]
    with suppress(struct.error, IndexError):
        _Directory(data)


def check_tiff(data: bytes) -> None:
    """Refuse a TIFF file of more than one page, or of a kind that programs for photos do not write."""
    if data[2] == 43 or data[3] == 43:
        raise _unsupported("64-bit offsets (BigTIFF)")
    try:
        directory = _Directory(data)
        if not directory.is_clear:
            raise ImageError(ImageFault.DAMAGED, "the image is corrupt: a tag occurs twice")
        for tag, (words, allowed, default) in _PLAIN.items():
            for value in directory.values(tag, default):
                if value not in allowed:
                    raise _unsupported(words.format(value))
        if directory.tags.keys() & set(_TILES):
            raise _unsupported("tiles")
        if directory.next():
            raise _unsupported("several pages")
        width, height, rows = (directory.values(tag, 0)[0] for tag in (_WIDTH, _HEIGHT, _ROWS))
    except (struct.error, IndexError):  # unlike EXIF data, a file is useless without its directory
        raise ImageError(ImageFault.TRUNCATED, "the image is truncated") from None
    if not width or not height:
        raise ImageError(ImageFault.DAMAGED, f"the image is corrupt: {width} x {height} pixels")
    # The number that the size asks for, and the number of offsets in the file: either costs time. No RowsPerStrip is
    # one strip for the whole image.
    if max(-(-height // rows) if rows else 1, directory.tags.get(_STRIPS, (0, 0, 0))[1]) > MAX_STRIPS:
        raise too_many("strips", MAX_STRIPS)
    if directory.num_values() > MAX_LISTED_VALUES:
        raise too_many("values", MAX_LISTED_VALUES)
    # Two levels: the file names the EXIF directory, and that one the directory of interoperability.
    further = directory.further()
    for inner in chain(further, *(each.further() for each in further)):
        if inner.num_values() > MAX_VALUES:
            raise too_many("values in the EXIF data", MAX_VALUES)


def too_many(what: str, most: int) -> ImageError:
    """Return the error for more than `most` of something."""
    return too_costly(f"more than {most:,} {what}")


def too_costly(reason: str, remedy: str = "") -> ImageError:
    """Return the error for a structure that takes long or much memory to decode."""
    return ImageError(ImageFault.TOO_COSTLY, reason, remedy)


def _unsupported(what: str) -> ImageError:
    return ImageError(ImageFault.UNSUPPORTED, f"a TIFF file with {what}, which the server does not take", _REMEDY)
