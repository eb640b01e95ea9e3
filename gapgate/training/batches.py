"""A split as batches on the device: whole in memory where it fits, else read from the memory map batch by batch."""

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
    """Gives the images of one split, by their place in the split (0 to `len` − 1)."""

    def __len__(self) -> int:
        """Images in the split."""

    def read(self, places: Sequence[Tensor]) -> Iterator[Batch]:
        """A batch for each tensor of places, (n,) int64 on the CPU."""


class ResidentBatches:
    """All images and labels as two tensors on the device."""

    def __init__(self, splits: Splits, split: SplitName, device: torch.device) -> None:
        rows = splits.rows(split)
        self._device = device
        self._labels = _labels(splits, rows).to(device)
        self._images = torch.empty((len(rows), *splits.image_shape), dtype=torch.uint8, device=device)
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
    """Reads each batch from `images.npy` in a thread, one batch ahead of its use."""

    def __init__(self, splits: Splits, split: SplitName, device: torch.device) -> None:
        self._splits = splits
        self._rows = splits.rows(split)
        self._labels = _labels(splits, self._rows)
        self._device = device

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, places: Sequence[Tensor]) -> Iterator[Batch]:
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = [reader.submit(self._read, batch) for batch in places[:1]]
            for batch in places[1:]:
                ahead.append(reader.submit(self._read, batch))
                yield ahead.pop(0).result()
            yield from (future.result() for future in ahead)

    def _read(self, places: Tensor) -> Batch:
        images, labels = _images(self._splits, self._rows[places.numpy()]), self._labels[places]
        if self._device.type == "cuda":
            images, labels = images.pin_memory(), labels.pin_memory()
        return images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)


def open_batches(splits: Splits, split: SplitName, device: torch.device) -> Batches:
    """A split in memory where it takes at most `device.RESIDENT_FRACTION` of the free memory, mapped otherwise."""
    size_bytes = len(splits.rows(split)) * int(np.prod(splits.image_shape))
    fits = size_bytes <= devices.RESIDENT_FRACTION * devices.free_memory_bytes(device)
    return (ResidentBatches if fits else MappedBatches)(splits, split, device)


def in_order(count: int, batch_size: int) -> list[Tensor]:
    """The places 0 to count − 1 in batches of at most `batch_size`."""
    return list(torch.split(torch.arange(count), batch_size))


def shuffled(count: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Every place once, in random order, in the fewest batches of at most `batch_size`, whose sizes differ by at most
    one: each epoch sees each image, and no step rests on a leftover of a few images."""
    order = torch.randperm(count, generator=generator)
    return list(order.tensor_split(num_batches(count, batch_size)))


def num_batches(count: int, batch_size: int) -> int:
    """Steps of an epoch over `count` images."""
    return -(-count // batch_size)


def _images(splits: Splits, rows: NDArray[np.int64]) -> Tensor:
    """(n, H, W, C) uint8, a copy."""
    return torch.from_numpy(np.take(splits.images, rows, axis=0))


def _labels(splits: Splits, rows: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(splits.labels[rows].astype(np.int64))
