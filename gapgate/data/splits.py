"""Reading what preprocess wrote: one array of all images, and for each split the rows that belong to it.

images.npy        (N, H, W, C) uint8, in the source's order; rows of quarantined images are zeros
labels.npy        (N,) int32, index into `class_names`
train.npy, val.npy, test.npy    ascending row numbers, int64
index.parquet     a line for each row: row, id, label, split, group, content_hash, width, height, reason;
                  split is train, val, test, duplicate or quarantined (without hash and size: empty, 0)
splits.json       class names, counts, mean and std of the training pixels, what was left out and why
transform.json    how an image file becomes a row of `images.npy` (see `gapgate.data.transform`)
dataset.json      where the images came from, with the DVC hash
lineage.json      the digest of the Dataset and what it is taken over (see `gapgate.artifacts.lineage`)
contact_sheet.png
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

SplitName = Literal["train", "val", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Splits:
    """A Splits artifact, memory-mapped."""

    path: Path
    info: dict[str, Any]
    """`splits.json`."""
    images: NDArray[np.uint8]
    """(N, H, W, C), read-only memory map."""
    labels: NDArray[np.int32]
    """(N,)"""

    @classmethod
    def open(cls, path: Path) -> Splits:
        """Map the files of a Splits artifact; nothing is read yet."""
        info = json.loads((path / "splits.json").read_text())
        images = np.load(path / "images.npy", mmap_mode="r")
        return cls(path, info, images, np.load(path / "labels.npy"))

    @property
    def class_names(self) -> list[str]:
        return list(self.info["class_names"])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)"""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def rows(self, split: SplitName) -> NDArray[np.int64]:
        """Ascending rows of `images` that belong to a split, (n,) int64."""
        rows: NDArray[np.int64] = np.load(self.path / f"{split}.npy")
        return rows
