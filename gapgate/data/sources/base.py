"""Interface of every source of labelled images: class names, a stream of records, and a reader of pixels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gapgate.data.formats import FORMATS, suffixes
from gapgate.data.transform import open_image
from gapgate.errors import DataError

Pixels = NDArray[np.uint8] | Image.Image
"""Decoded, upright image: (H, W) or (H, W, 1..4) uint8, or the same as a Pillow image of mode L, LA, RGB or RGBA."""

SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Common name of a split, in lower case → Gapgate's name."""

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
    """Name of the format in reports: `class folders`, `table`, `IDX`, `CIFAR`, `NumPy`."""
    class_names: tuple[str, ...]
    """Names of the classes, in label order."""
    reader: Reader
    records: Callable[[], Iterator[Record]]
    """Function that streams all records, in the same order each time; memory does not grow with their number."""


@dataclass(frozen=True, slots=True)
class FileReader:
    """Reader of image files below `root`; the locator is the path relative to it."""

    root: Path

    def read(self, locator: str, max_pixels: int) -> Image.Image:
        return open_image(self.root / locator, max_pixels=max_pixels)


def ordered_classes(names: Collection[str]) -> tuple[str, ...]:
    """Sort class names into label order: by number if all are whole numbers (2 before 10), else by code point."""
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def is_hidden(name: str) -> bool:
    """True for a hidden file, or one that a desktop leaves in folders (`Thumbs.db`)."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini", "__macosx")


def has_image_suffix(name: str) -> bool:
    """True for a file name with the suffix of an image format."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def split_named(name: Any, where: str) -> str:
    """Return train, val or test for any common name of it; `where` stands in the message.

    Raises:
        DataError: the name is unknown.
    """
    try:
        return SPLIT_ALIASES[str(name).strip().lower()]
    except KeyError:
        raise DataError(f"{where}: split {str(name)!r} is unknown; use train, val or test in every row") from None
