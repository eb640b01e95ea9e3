"""What every source of labelled images offers: class names, a stream of records, and a reader of pixels."""

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
"""A decoded, upright image: (H, W) or (H, W, 1..4) uint8, or the same as a Pillow image of mode L, LA, RGB or RGBA."""

SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""How people name splits (compared in lower case) → how Gapgate does."""

IMAGE_SUFFIXES = suffixes(FORMATS)


class Record(NamedTuple):
    """One labelled image of a source."""

    id: str
    """Unique within the source: a relative path, or `train/000123` in array formats."""
    label: int
    """Index into the source's `class_names`."""
    split: str
    """train, val or test where the source brings its own splits, else empty."""
    group: str
    """Images of one group stay in one split; empty: each image on its own."""
    locator: str
    """What the source's reader needs to find the pixels."""


class Reader(Protocol):
    """Finds pixels by locator; small and picklable, so that worker processes can have one each."""

    def read(self, locator: str, max_pixels: int) -> Pixels:
        """One image as it is stored.

        Raises:
            ImageError: the image cannot be used.
        """


@dataclass(frozen=True, slots=True)
class Source:
    """A data set in a known format."""

    format: str
    """Its name in reports: `class folders`, `table`, `IDX`, `CIFAR`, `NumPy`."""
    class_names: tuple[str, ...]
    """In label order."""
    reader: Reader
    records: Callable[[], Iterator[Record]]
    """Streams all records, in the same order each time; memory does not grow with their number."""


@dataclass(frozen=True, slots=True)
class FileReader:
    """Reads image files below `root`; the locator is the path relative to it."""

    root: Path

    def read(self, locator: str, max_pixels: int) -> Image.Image:
        return open_image(self.root / locator, max_pixels=max_pixels)


def ordered_classes(names: Collection[str]) -> tuple[str, ...]:
    """Class names in label order: by number where all are whole numbers (2 before 10), else by code point."""
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def is_hidden(name: str) -> bool:
    """Whether a file is the desktop's, not the data set's."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini", "__macosx")


def has_image_suffix(name: str) -> bool:
    """Whether a file name promises an image."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def split_named(name: Any, where: str) -> str:
    """train, val or test for any of its usual names.

    Raises:
        DataError: another name.
    """
    try:
        return SPLIT_ALIASES[str(name).strip().lower()]
    except KeyError:
        raise DataError(f"{where}: split {str(name)!r} is unknown; use train, val or test in every row") from None
