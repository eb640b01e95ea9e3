"""The binary version of CIFAR-10 and CIFAR-100 (format: https://www.cs.toronto.edu/~kriz/cifar.html)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gapgate.data.sources.arrays import Block, Part, array_source
from gapgate.data.sources.base import Source
from gapgate.errors import DataError

_SHAPE = (32, 32, 3)
_PIXEL_BYTES = 3072


def is_cifar(folder: Path) -> bool:
    """True if the folder holds CIFAR batches, binary or pickled."""
    names = {path.name for path in folder.iterdir()}
    return bool(names & {"data_batch_1", "data_batch_1.bin", "test_batch.bin"}) or names >= {"train.bin", "test.bin"}


def open_cifar(folder: Path, *, is_named: bool = True) -> Source:
    """Open CIFAR-10 (`data_batch_*.bin`, `test_batch.bin`) or CIFAR-100 (`train.bin`, `test.bin`; its fine labels);
    unless `is_named`, the classes stay numbers.

    Raises:
        DataError: the folder holds the pickled version, or the size of a file is no multiple of the record length.
    """
    if (folder / "data_batch_1").exists():
        raise DataError(f"{folder} is CIFAR's pickled version, which could run any code; get the binary version")
    if (folder / "train.bin").exists():
        files = {"train": [folder / "train.bin"], "test": [folder / "test.bin"]}
        parts, names = _parts(files, label_bytes=2), folder / "fine_label_names.txt"
    else:
        files = {"train": sorted(folder.glob("data_batch_*.bin")), "test": sorted(folder.glob("test_batch.bin"))}
        parts, names = _parts(files, label_bytes=1), folder / "batches.meta.txt"
    if not is_named:
        return array_source("CIFAR", parts, None)
    return array_source("CIFAR", parts, tuple(names.read_text().split()) if names.exists() else ())


def _parts(files: dict[str, list[Path]], label_bytes: int) -> Iterator[Part]:
    """Describe the files as parts, one for each."""
    # A record is the label bytes (CIFAR-100: coarse, then fine) and 1,024 bytes each of the red, green and blue plane.
    stride = label_bytes + _PIXEL_BYTES
    for split, paths in files.items():
        first = 0
        for path in paths:
            num_images, rest = divmod(path.stat().st_size, stride)
            if rest or not num_images:
                raise DataError(f"{path} has {path.stat().st_size:,} bytes, no multiple of {stride:,}; get it again")
            # The last label byte is the class: the only one of CIFAR-10, the fine one of CIFAR-100.
            labels = np.memmap(path, np.uint8, "r", shape=(num_images, stride))[:, label_bytes - 1]
            images = Block(path, 0, num_images, stride, _SHAPE, planar=True, skip=label_bytes)
            yield Part(split, split, images, labels, first=first)
            first += num_images
