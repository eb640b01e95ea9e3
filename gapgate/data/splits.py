"""Reader of a Splits artifact: one array of all images, and for each split the rows that belong to it.

images.npy        (N, H, W, C) uint8, in the source's order; rows of quarantined images are zeros
labels.npy        (N,) int32, index into `class_names`
train.npy, val.npy, test.npy    ascending row numbers, int64
index.parquet     a line for each row: row, id, label, split, group, content_hash, width, height, reason;
                  split is train, val, test, duplicate or quarantined (with an empty hash and the size 0)
splits.json       class names, counts, mean and std of the training pixels, images left out and the reasons
transform.json    settings of the transform from an image file to a row of `images.npy` (`gapgate.data.transform`)
dataset.json      origin of the images, with the DVC hash
lineage.json      digest of the Dataset, and the content that it covers (see `gapgate.artifacts.lineage`)
contact_sheet.png sample images of each class
set_aside.json    images in no split and the reasons (`gapgate.data.set_aside`), with set_aside.png; missing if none
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
    """Content of `splits.json`."""
    images: NDArray[np.uint8]
    """All images, (N, H, W, C), a read-only memory map."""
    labels: NDArray[np.int32]
    """Class index of each image, (N,)."""

    @classmethod
    def open(cls, path: Path) -> Splits:
        """Open a Splits artifact; the images are memory-mapped and not read yet."""
        info = json.loads((path / "splits.json").read_text())
        images = np.load(path / "images.npy", mmap_mode="r")
        return cls(path, info, images, np.load(path / "labels.npy"))

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in label order."""
        return list(self.info["class_names"])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (H, W, C) of one image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def rows(self, split: SplitName) -> NDArray[np.int64]:
        """Read the rows of `images` that belong to a split, (n,) int64, ascending."""
        rows: NDArray[np.int64] = np.load(self.path / f"{split}.npy")
        return rows
