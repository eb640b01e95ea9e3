"""Reader of a Splits artifact: one array of all images, and for each split the rows that belong to it.

images.npy        (N, H, W, C) uint8, in the source's order; rows of quarantined images are zeros
labels.npy        (N,) int32, index into `class_names`
train.npy, val.npy, test.npy    ascending row numbers, int64; test is empty where there are folds
folds.npy         (N,) int8, the fold of each image of train and val, −1 for the others; only for a cross-validation
index.parquet     a line for each row: row, id, label, split, group, content_hash, width, height, reason;
                  group is the source's, or one that was found;
                  split is train, val, test, duplicate or quarantined (with an empty hash and the size 0)
splits.json       class names, counts, mean and std of the training pixels, images left out and the reasons
transform.json    settings of the transform from an image file to a row of `images.npy` (`gapgate.data.transform`)
dataset.json      origin of the images, with the DVC hash
lineage.json      digest of the Dataset, and the content that it covers (see `gapgate.artifacts.lineage`)
contact_sheet.png sample images of each class, also as dark/contact_sheet.png
set_aside.json    images in no split and the reasons (`gapgate.data.set_aside`), with set_aside.png; missing if none
near_duplicates.json    near-duplicates in the splits (`gapgate.data.leaks.alike`), with a picture; missing if none
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
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
    held_out: int | None = None
    """Fold that is the test split, and is in no other; None: the splits as they were made."""

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
    def network(self) -> str:
        """Kind of network that the images are prepared for: `scratch` or `pretrained`."""
        return str(self.info.get("network", "scratch"))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (H, W, C) of one image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def groups(self) -> NDArray[np.int64] | None:
        """Number the groups, (N,) for all rows; a row without a group is a group of its own. None if no row has one."""
        column = pq.read_table(self.path / "index.parquet", columns=["group"])["group"].to_pylist()
        if not any(column):
            return None
        numbers: dict[Any, int] = {}
        return np.array(
            [numbers.setdefault(group if group else ("row", row), len(numbers)) for row, group in enumerate(column)]
        )

    def rows(self, split: SplitName) -> NDArray[np.int64]:
        """Read the rows of `images` that belong to a split, (n,) int64, ascending."""
        rows: NDArray[np.int64] = np.load(self.path / f"{split}.npy")
        if self.held_out is None:
            return rows
        folds = self.folds()
        if split == "test":
            return np.flatnonzero(folds == self.held_out)
        kept: NDArray[np.int64] = rows[folds[rows] != self.held_out]
        # A fold may hold all of a small val; then training looks at its own images, which stops it no sooner.
        return self.rows("train") if split == "val" and not len(kept) else kept

    @property
    def num_folds(self) -> int:
        """Number of folds of a cross-validation; 0 where there is a test split."""
        return int(self.info.get("num_folds", 0))

    def folds(self) -> NDArray[np.int8]:
        """Read the fold of each image, (N,); −1 for images outside of train and val."""
        found: NDArray[np.int8] = np.load(self.path / "folds.npy")
        return found

    def in_folds(self) -> NDArray[np.int64]:
        """Return the rows that are in a fold, (n,) int64, ascending."""
        return np.flatnonzero(self.folds() >= 0)

    def hold_out(self, fold: int) -> Splits:
        """Return these splits with a fold as the test split, and mean and std of the training images that are left."""
        left = dataclasses.replace(self, held_out=fold)
        pixels = self.images[left.rows("train")]
        axes = (0, 1, 2)
        # A channel of one value would divide by 0.
        std = [float(value) or 1.0 for value in pixels.std(axis=axes, dtype=np.float64) / 255]
        mean = [float(value) for value in pixels.mean(axis=axes, dtype=np.float64) / 255]
        return dataclasses.replace(left, info=self.info | {"mean": mean, "std": std})
