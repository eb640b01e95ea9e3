"""A Splits artifact of scikit-learn's digits, as small as a test wants it, and a tracker that remembers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL.Image import Image
from sklearn.datasets import load_digits

from gapgate.data.splits import Splits
from gapgate.tracking import NullTracker


def write_digits(path: Path, num_train: int, num_val: int) -> Splits:
    """Real 8×8 digits; the rows after train and val are the test split, whose file is not there."""
    digits = load_digits()
    images = (digits.images * (255 / 16)).astype(np.uint8)[..., None]  # (1797, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(images))
    train, val = np.sort(order[:num_train]), np.sort(order[num_train : num_train + num_val])
    path.mkdir()
    np.save(path / "images.npy", images)
    np.save(path / "labels.npy", digits.target.astype(np.int32))
    np.save(path / "train.npy", train)
    np.save(path / "val.npy", val)
    pixels = images[train] / 255
    info = {"class_names": [str(digit) for digit in range(10)], "mean": [pixels.mean()], "std": [pixels.std()]}
    (path / "splits.json").write_text(json.dumps(info))
    (path / "transform.json").write_text('{"size_px": 8}\n')
    return Splits.open(path)


class Recorder(NullTracker):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.epochs: dict[int, dict[str, float]] = {}
        self.facts: dict[str, str] = {}
        self.steps: list[tuple[int, int, str, str]] = []
        self.pictures: dict[tuple[str, int], Image] = {}

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        self.epochs[step] = dict(values)

    def tags(self, values: Mapping[str, str]) -> None:
        self.facts.update(values)

    def drawing(self, picture: Image, key: str, step: int = 0) -> None:
        self.pictures[key, step] = picture

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        self.steps.append((done, total, unit, note))
