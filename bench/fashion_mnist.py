"""Fashion-MNIST as its gzipped IDX files: the option that names their folder, and what is in them."""

from __future__ import annotations

import argparse
import gzip
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIDE_PX = 28
PREFIXES = {"train": "train", "test": "t10k"}
"""Split → how the names of its files begin."""


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add `--data FOLDER`; by default the folder beside the tests' real data."""
    tests_data = Path(os.environ.get("GAPGATE_TEST_DATA", "."))
    parser.add_argument("--data", type=Path, default=tests_data / "fashion-mnist", help="folder of gzipped IDX files")


def require(parser: argparse.ArgumentParser, folder: Path, split: str) -> None:
    """End with a usage error where the folder lacks the images of this split."""
    images = _images_file(folder, split)
    if not images.is_file():
        parser.error(f"{folder} has no {images.name}; name the folder with --data")


def images(folder: Path, split: str, number: int) -> NDArray[np.uint8]:
    """The first images of a split, (number, 28, 28)."""
    with gzip.open(_images_file(folder, split)) as file:
        content = file.read(16 + number * SIDE_PX * SIDE_PX)  # IDX: 16 bytes of magic number and sizes, then pixels
    return np.frombuffer(content, np.uint8)[16:].reshape(-1, SIDE_PX, SIDE_PX)


def labels(folder: Path, split: str, number: int) -> NDArray[np.uint8]:
    """The first labels of a split, (number,)."""
    with gzip.open(folder / f"{PREFIXES[split]}-labels-idx1-ubyte.gz") as file:
        content = file.read(8 + number)  # IDX: 8 bytes of magic number and size, then a byte a label
    return np.frombuffer(content, np.uint8)[8:]


def _images_file(folder: Path, split: str) -> Path:
    return folder / f"{PREFIXES[split]}-images-idx3-ubyte.gz"
