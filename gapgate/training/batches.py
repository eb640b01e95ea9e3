"""Batches of a split on the device: from memory where the split fits, else from the memory map batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gapgate.data.splits import SplitName, Splits
from gapgate.training import device as devices

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Images (n, H, W, C) uint8 and labels (n,) int64, on the device."""

_COPY_ROWS = 4096


class Batches(Protocol):
    """Images of one split, by their index in the split (0 to `len` − 1)."""

    def __len__(self) -> int:
        """Return the number of images in the split."""

    def read(self, places: Sequence[Tensor]) -> Iterator[Batch]:
        """Yield a batch for each tensor of indices, (n,) int64 on the CPU."""


class ResidentBatches:
    """Batches from tensors of all images and labels on the device."""

    def __init__(self, splits: Splits, split: SplitName, device: torch.device) -> None:
        rows = splits.rows(split)
        self._device = device
        self._labels = _labels(splits, rows).to(device)
        self._images = torch.empty((len(rows), *splits.image_shape), dtype=torch.uint8, device=device)
        # In chunks, so that the split is not held a second time on the CPU while it is copied.
        for start in range(0, len(rows), _COPY_ROWS):
            chunk = rows[start : start + _COPY_ROWS]
            self._images[start : start + len(chunk)] = _images(splits, chunk).to(device)

    def __len__(self) -> int:
        return len(self._labels)

    def read(self, places: Sequence[Tensor]) -> Iterator[Batch]:
        for batch in places:
            index = batch.to(self._device, non_blocking=True)
            yield self._images[index], self._labels[index]


class MappedBatches:
    """Batches read from `images.npy` in a thread, one batch ahead of their use."""

    def __init__(self, splits: Splits, split: SplitName, device: torch.device) -> None:
        self._splits = splits
        self._rows = splits.rows(split)
        self._labels = _labels(splits, self._rows)
        self._device = device

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, places: Sequence[Tensor]) -> Iterator[Batch]:
        # One thread keeps the batches in order, and one batch ahead bounds the memory to two batches.
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = [reader.submit(self._read, batch) for batch in places[:1]]
            for batch in places[1:]:
                ahead.append(reader.submit(self._read, batch))
                yield ahead.pop(0).result()
            yield from (future.result() for future in ahead)

    def _read(self, places: Tensor) -> Batch:
        images, labels = _images(self._splits, self._rows[places.numpy()]), self._labels[places]
        # Only from pinned memory is a copy to the GPU asynchronous (CUDA C++ programming guide, "Page-Locked Host
        # Memory").
        if self._device.type == "cuda":
            images, labels = images.pin_memory(), labels.pin_memory()
        return images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)


def open_batches(splits: Splits, split: SplitName, device: torch.device) -> Batches:
    """Open a split: in memory if it takes at most `device.RESIDENT_FRACTION` of the free memory, mapped otherwise."""
    size_bytes = len(splits.rows(split)) * int(np.prod(splits.image_shape))
    fits = size_bytes <= devices.RESIDENT_FRACTION * devices.free_memory_bytes(device)
    return (ResidentBatches if fits else MappedBatches)(splits, split, device)


def in_order(count: int, batch_size: int) -> list[Tensor]:
    """Split the indices 0 to count − 1 into batches of at most `batch_size`, (n,) int64 each."""
    return list(torch.split(torch.arange(count), batch_size))


def shuffled(count: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Split all indices, in random order, into the fewest batches of at most `batch_size`, (n,) int64 each.

    Sizes differ by at most one: each epoch sees each image once, and no step is made with a few leftover images.
    """
    order = torch.randperm(count, generator=generator)
    return list(order.tensor_split(num_batches(count, batch_size)))


def num_batches(count: int, batch_size: int) -> int:
    """Return the number of steps in an epoch over `count` images."""
    return -(-count // batch_size)


def _images(splits: Splits, rows: NDArray[np.int64]) -> Tensor:
    """Copy images from the memory map, (n, H, W, C) uint8."""
    # For batches of 128 images of 32 px `take` needs 0.4 of the time of `images[rows]`, and what it gives can be
    # written to.
    return torch.from_numpy(np.take(splits.images, rows, axis=0))


def _labels(splits: Splits, rows: NDArray[np.int64]) -> Tensor:
    # The type in which torch's cross-entropy takes classes.
    return torch.from_numpy(splits.labels[rows].astype(np.int64))
