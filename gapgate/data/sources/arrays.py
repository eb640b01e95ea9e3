"""Images in large binary files: IDX, CIFAR and NumPy all store records of one length, which are memory-mapped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapgate.data.sources.base import Record, Source, ordered_classes
from gapgate.data.sources.known import known_names
from gapgate.data.sources.names import split_named
from gapgate.errors import DataError

BLOCK = 65_536
"""Number of labels handled at a time."""


@dataclass(frozen=True, slots=True)
class Block:
    """Block of `num_images` records of `stride` bytes, from `offset` on; pixels start `skip` bytes into each record."""

    path: Path
    offset: int
    num_images: int
    stride: int
    shape: tuple[int, ...]
    """Shape (H, W) or (H, W, C) of an image; if `planar`, it is stored as (C, H, W)."""
    planar: bool = False
    skip: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """Block of images with their labels, groups and splits."""

    name: str
    """Prefix of the images' ids."""
    split: str
    """Split of all images (train, val, test or empty), unless `splits` is given."""
    images: Block
    labels: NDArray[Any]
    """Label of each image, (N,) whole numbers or strings."""
    groups: NDArray[Any] | None = None
    """Group of each image, (N,)."""
    splits: NDArray[Any] | None = None
    """Split of each image, (N,)."""
    first: int = 0
    """Number of the first image in the ids; not 0 if the split is stored in several files."""


@dataclass(slots=True)
class ArrayReader:
    """Reader of images from blocks; the locator is `block:image`."""

    blocks: tuple[Block, ...]
    _maps: dict[int, NDArray[np.uint8]] = field(default_factory=dict, init=False)

    # Pickling a memory map would copy the whole file to each worker: every process maps the files itself.
    def __getstate__(self) -> Any:
        return self.blocks

    def __setstate__(self, state: Any) -> None:
        self.blocks, self._maps = state, {}

    def read(self, locator: str, max_pixels: int) -> NDArray[np.uint8]:
        number, _, image = locator.partition(":")
        block = self.blocks[int(number)]
        if (records := self._maps.get(int(number))) is None:
            # As a plain array: slicing a memmap makes an object of the subclass for every image, which is slower.
            mapped = np.memmap(block.path, np.uint8, "r", block.offset, (block.num_images, block.stride))
            records = self._maps[int(number)] = np.asarray(mapped)
        pixels = records[int(image), block.skip : block.skip + math.prod(block.shape)]
        if block.planar:
            height, width, channels = block.shape
            return np.ascontiguousarray(pixels.reshape(channels, height, width).transpose(1, 2, 0))
        return pixels.reshape(block.shape)


def array_source(format_name: str, parts: Iterable[Part], class_names: tuple[str, ...] | None = ()) -> Source:
    """Build a source from arrays.

    With `class_names` a label that is a whole number is an index into them. Without, the classes are the distinct
    labels, or have the names of a well-known data set that is recognised; None: they stay as they are.

    Raises:
        DataError: a label has no name in `class_names`, or the number of labels is not that of images.
    """
    parts = tuple(parts)
    for part in parts:
        _check(part)
    codes = _distinct(parts)
    class_names = class_names or (() if class_names is None else _known(parts, codes))
    if class_names and all(isinstance(code, int) for code in codes):
        if wrong := sorted(code for code in codes if not 0 <= code < len(class_names)):
            raise DataError(f"label {wrong[0]} has no name: {len(class_names)} classes are named; name all of them")
        label_of = {code: code for code in codes}
    else:
        names = ordered_classes({str(code) for code in codes})
        label_of = {code: names.index(str(code)) for code in codes}
        class_names = names
    reader = ArrayReader(tuple(part.images for part in parts))
    return Source(format_name, class_names, reader, lambda: _records(parts, label_of))


def _known(parts: tuple[Part, ...], codes: set[Any]) -> tuple[str, ...]:
    """Names of the classes of a well-known data set, whose labels are all there; `()` for any other."""
    for part in parts:
        if (names := known_names(part.images.shape, part.labels)) and codes == set(range(len(names))):
            return names
    return ()


def _check(part: Part) -> None:
    counts = {"labels": part.labels, "groups": part.groups, "splits": part.splits}
    for name, values in counts.items():
        if values is None:
            continue
        if values.ndim != 1:
            shape = " × ".join(map(str, values.shape))
            raise DataError(
                f"{part.name}: {name} are an array of {shape}; store one value for each image, as argmax gives"
            )
        if len(values) != part.images.num_images:
            raise DataError(
                f"{part.name}: {len(values):,} {name} for {part.images.num_images:,} images; "
                f"give one of the {name} for each image"
            )
    # Whole numbers with a sign and without, and texts as str and as bytes.
    if part.labels.dtype.kind not in "iuUS":
        raise DataError(f"{part.name}: labels are {part.labels.dtype}; store them as whole numbers or strings")


def _distinct(parts: tuple[Part, ...]) -> set[Any]:
    codes: set[Any] = set()
    for part in parts:
        for start in range(0, len(part.labels), BLOCK):
            codes.update(np.unique(part.labels[start : start + BLOCK]).tolist())
    return codes


def _records(parts: tuple[Part, ...], label_of: dict[Any, int]) -> Iterator[Record]:
    for number, part in enumerate(parts):
        for start in range(0, part.images.num_images, BLOCK):
            rows = slice(start, start + BLOCK)
            labels = part.labels[rows].tolist()
            groups = [""] * len(labels) if part.groups is None else map(str, part.groups[rows].tolist())
            splits = [part.split] * len(labels) if part.splits is None else part.splits[rows].tolist()
            for image, label, group, split in zip(
                range(start, start + len(labels)), labels, groups, splits, strict=True
            ):
                name = f"{part.name}/{part.first + image:06d}"
                split = split_named(split, name) if part.splits is not None else split
                yield Record(name, label_of[label], split, group, f"{number}:{image}")
