"""Interface of every source of labelled images: class names, a stream of records, and a reader of pixels."""

from __future__ import annotations

import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gapgate.data.formats import FORMATS, suffixes
from gapgate.data.picture.modes import MAX_WHITE
from gapgate.data.picture.opening import open_image
from gapgate.errors import ImageError, ImageFault

Pixels = NDArray[np.uint8] | Image.Image
"""Decoded, upright image: (H, W) or (H, W, 1..4) uint8, or the same as a Pillow image of mode L, LA, RGB or RGBA."""

IMAGE_SUFFIXES = suffixes(FORMATS)


class Record(NamedTuple):
    """One labelled image of a source."""

    id: str
    """Name that is unique within the source: a relative path, or `train/000123` in array formats."""
    label: int
    """Index into the source's `class_names`."""
    split: str
    """Split (train, val or test) if the source defines its own splits, else empty."""
    group: str
    """Group, whose images stay in one split; empty for an image on its own."""
    locator: str
    """Address of the pixels for the source's reader."""


class Reader(Protocol):
    """Reader of pixels by locator; small and picklable, so that every worker process can have one."""

    def read(self, locator: str, max_pixels: int) -> Pixels:
        """Read one image as it is stored.

        Raises:
            ImageError: the image cannot be used.
        """


@dataclass(frozen=True, slots=True)
class Source:
    """Data set in a known format."""

    format: str
    """Name of the format in reports: `class folders`, `table`, `IDX`, `CIFAR`, `NumPy`, `images in Parquet`,
    `pixels in a table`."""
    class_names: tuple[str, ...]
    """Names of the classes, in label order."""
    reader: Reader
    records: Callable[[], Iterator[Record]]
    """Function that streams all records, in the same order each time; memory does not grow with their number."""
    notes: tuple[str, ...] = ()
    """Lines that tell the user how the files were understood, and what was left out."""


@dataclass(frozen=True, slots=True)
class EncodedReader(ABC):
    """Reader of encoded images, the base of those of files and of bytes; `path` is where they lie."""

    path: Path
    white: int = MAX_WHITE
    """Value of white in images of 16 bits."""

    @abstractmethod
    def encoded(self, locator: str) -> bytes | Path:
        """Return an encoded image, or the path of its file.

        Raises:
            ImageError: there is none.
        """

    def read(self, locator: str, max_pixels: int) -> Image.Image:
        return open_image(self.encoded(locator), max_pixels=max_pixels, white=self.white)


class FileReader(EncodedReader):
    """Reader of image files below `path`; the locator is the path relative to it."""

    __slots__ = ()

    def encoded(self, locator: str) -> Path:
        path = self.path / locator
        try:
            mode = path.stat().st_mode
        except OSError as error:  # also a link to nothing or to itself
            raise ImageError(ImageFault.UNREADABLE, f"cannot be read: {error.strerror}") from None
        if not stat.S_ISREG(mode):  # opening a pipe waits for its writer
            raise ImageError(ImageFault.UNREADABLE, "is no regular file", "put a copy of the file there")
        return path


def ordered_classes(names: Collection[str]) -> tuple[str, ...]:
    """Sort class names into label order: by number if all are whole numbers (2 before 10), else by code point."""
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


_OTHER_SUFFIXES = frozenset(
    (
        *(".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini", ".log"),
        *(".html", ".htm", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".py", ".ipynb", ".sh", ".m", ".r", ".parquet"),
    )
)
"""Suffixes of files that people keep beside images."""


def may_be_image(name: str) -> bool:
    """False for the name of a text, a table, a notebook or the like; a name without a known suffix may be an image."""
    return Path(name).suffix.lower() not in _OTHER_SUFFIXES


def has_image_suffix(name: str) -> bool:
    """True for a file name with the suffix of an image format."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES
