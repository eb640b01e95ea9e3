"""The first training images of Fashion-MNIST, in the form that each contestant reads."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import fashion_mnist


def write_inputs(source: Path, out: Path, num_images: int) -> None:
    """Write `splits/` for Gapgate, `arrays.npz` for Keras, and `FashionMNIST/raw/` as torchvision unpacks it."""
    raw = out / "FashionMNIST/raw"
    raw.mkdir(parents=True, exist_ok=True)
    for packed in sorted(source.glob("*-ubyte.gz")):
        with gzip.open(packed) as reader, (raw / packed.stem).open("wb") as writer:
            shutil.copyfileobj(reader, writer)
    images = fashion_mnist.images(source, "train", num_images)[..., np.newaxis]  # (N, 28, 28, 1)
    labels = fashion_mnist.labels(source, "train", num_images).astype(np.int32)  # (N,)
    np.savez(out / "arrays.npz", images=images, labels=labels)
    _write_splits(out / "splits", images, labels)


def _write_splits(path: Path, images: NDArray[np.uint8], labels: NDArray[np.int32]) -> None:
    path.mkdir(exist_ok=True)
    np.save(path / "images.npy", images)
    np.save(path / "labels.npy", labels)
    np.save(path / "train.npy", np.arange(len(images)))
    np.save(path / "val.npy", np.arange(len(images) // 9))  # for its time alone: a tenth is held out of every ten
    info = {
        "class_names": [str(label) for label in range(10)],
        "mean": [float(images.mean() / 255)],
        "std": [float(images.std() / 255)],
    }
    (path / "splits.json").write_text(json.dumps(info))
