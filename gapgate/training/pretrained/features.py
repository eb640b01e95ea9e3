"""Features of images by a backbone, computed once for each image and kept in a file by its content hash."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn
from xxhash import xxh3_64_hexdigest

from gapgate import artifacts
from gapgate.data.splits import Splits
from gapgate.network import backbones, modules
from gapgate.network.backbones import Backbone
from gapgate.network.export import export_onnx
from gapgate.onnx.classifier import Classifier
from gapgate.process.cpu_quota import available_cpus
from gapgate.tracking import Tracker

BATCH_SIZE = 16
"""Images in a batch. Every batch has this size (the last one is filled up), so that an image's features do not depend
on which images were known before."""


def compute(
    backbone: Backbone, splits: Splits, rows: NDArray[np.int64], device: torch.device, cache: Path, tracker: Tracker
) -> NDArray[np.float32]:
    """Compute the input of the backbone's last layer for the images of `rows` (n,), as (n, features) float32.

    Features found in `cache`, a folder that may be missing, are not computed again, and new ones are added to it. A
    cache that cannot be read or written is passed over.

    Raises:
        SettingsError: the backbone does not take the images.
    """
    hashes = pq.read_table(splits.path / "index.parquet", columns=["content_hash"])["content_hash"]
    keys = [hashes[row].as_py() for row in rows.tolist()]
    store = _Store(cache / f"{_identity(backbone, splits)}.sqlite")
    known = store.read(keys)
    missing = [at for at, key in enumerate(keys) if key not in known]
    if missing:
        done = len(keys) - len(missing)
        parts = [missing[start : start + BATCH_SIZE] for start in range(0, len(missing), BATCH_SIZE)]
        for part, found in zip(parts, _extract(backbone, splits, [rows[part] for part in parts], device), strict=True):
            new = {keys[at]: vector for at, vector in zip(part, found, strict=True)}
            known |= new
            # After each batch: a training that is killed goes on from here.
            store.add(new)
            done += len(part)
            tracker.progress(done, len(keys), "images", "features")
    return np.stack([known[key] for key in keys])


def _identity(backbone: Backbone, splits: Splits) -> str:
    """Digest of all but the image on which its features depend: weights, and the way to the network's pixels."""
    transform = artifacts.read_json(splits.path / "transform.json")
    # `max_pixels` only says which files are refused; mean and std are the backbone's own.
    pixels = {name: value for name, value in transform.items() if name not in ("mean", "std", "max_pixels")}
    return artifacts.digest_of({"backbone": backbone.digest, "pixels": pixels}).removeprefix("sha256:")[:32]


def _extract(
    backbone: Backbone, splits: Splits, parts: Sequence[NDArray[np.int64]], device: torch.device
) -> Iterator[NDArray[np.float32]]:
    """Yield the features (n, features) for each of the `parts`, rows (n,) with n ≤ `BATCH_SIZE`."""
    model = backbone.build(splits.image_shape, num_classes=2)
    model.set_submodule(backbones.head_of(model)[0], nn.Identity())
    model.eval()
    if device.type == "cuda":
        model.to(device).to(memory_format=torch.channels_last)
        yield from (_on_gpu(model, backbone, _batch(splits, part), device)[: len(part)] for part in parts)
        return
    # ONNX Runtime folds batch normalisation into the convolutions, and took 12 ms for an image of 224 px on one thread
    # where torch took 41. One thread a batch: no batch waits for another, and the bits do not depend on their number.
    with TemporaryDirectory() as folder, ThreadPoolExecutor(available_cpus()) as threads:
        path = Path(folder, "features.onnx")
        export_onnx(model, splits.image_shape, backbone.mean, backbone.std, path)
        extractor = Classifier.load(path)
        yield from threads.map(lambda part: extractor.logits(_batch(splits, part))[: len(part)], parts)


@torch.inference_mode()
def _on_gpu(
    model: nn.Module, backbone: Backbone, images: NDArray[np.uint8], device: torch.device
) -> NDArray[np.float32]:
    mean, std = (torch.tensor(values, device=device) for values in (backbone.mean, backbone.std))
    inputs = modules.normalise(torch.from_numpy(images).to(device), mean, std)
    found: NDArray[np.float32] = model(inputs.contiguous(memory_format=torch.channels_last)).cpu().numpy()
    return found


def _batch(splits: Splits, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Read images, filled up with black ones to `BATCH_SIZE`."""
    batch = np.zeros((BATCH_SIZE, *splits.image_shape), np.uint8)
    batch[: len(rows)] = splits.images[rows]
    return batch


class _Store:
    """Table from content hash to features, with a checksum, in an SQLite file; trainings that run at once share it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, keys: list[str]) -> dict[str, NDArray[np.float32]]:
        """Return the features (num_features,) that are known and whole, by content hash."""
        if not self._path.exists():
            return {}
        wanted = set(keys)
        try:
            # Another training may be writing: SQLite waits for its lock this many seconds.
            with closing(sqlite3.connect(self._path, timeout=60)) as db:
                return {
                    key: np.frombuffer(vector, "<f4")
                    for key, vector, checksum in db.execute("SELECT hash, vector, checksum FROM features")
                    if key in wanted and xxh3_64_hexdigest(vector) == checksum
                }
        except sqlite3.Error:
            return {}

    def add(self, features: dict[str, NDArray[np.float32]]) -> None:
        """Keep features (num_features,), by content hash."""
        vectors = {key: vector.astype("<f4").tobytes() for key, vector in features.items()}
        # SQLite does not check what it reads: without a checksum a flipped bit would go into a model unseen.
        lines = [(key, vector, xxh3_64_hexdigest(vector)) for key, vector in vectors.items()]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=60)) as db, db:
                db.execute("CREATE TABLE IF NOT EXISTS features (hash TEXT PRIMARY KEY, vector BLOB, checksum TEXT)")
                # Two trainings may compute the same image at once: both have the same vector.
                db.executemany("INSERT OR REPLACE INTO features VALUES (?, ?, ?)", lines)
        except (sqlite3.Error, OSError):
            return  # computed again the next time
