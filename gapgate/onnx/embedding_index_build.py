"""Builder of the index of training images that `gapgate.onnx.embedding_index` searches."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from gapgate.artifacts import write_json
from gapgate.data.splits import Splits
from gapgate.data.tiles import picture
from gapgate.onnx.embedding_index import MAX_DIMENSIONS, USUAL, USUAL_SHARE, Projection, unit_vectors
from gapgate.onnx.inner_layers import InnerLayers
from gapgate.process.cpu_quota import available_cpus

_SEED = 0
_BLOCK_ROWS = 1000  # 12.5 MB of embeddings of 3,136 values
_BATCH_SIZE = 32
"""Images in a call of the network; 250 photos of 224 px would take a gigabyte."""
_FIT_NUMBERS = 2**25
"""Number of embedding values that the principal components are fitted on: 134 MB, such as 10,700 images of 3,136
values each."""
_JPEG_QUALITY = 85
_USUAL_SAMPLE, _USUAL_BLOCK = 2000, 64
"""Images whose distance to all others is measured, and how many at a time: of 100,000 images 2 s and 26 MB."""


def build_index(splits: Splits, layers: InnerLayers, folder: Path, *, max_images: int, thumbnail_px: int) -> int:
    """Write the index of the training images into the new folder `folder`; equal inputs give equal bytes.

    Args:
        splits: splits with the training images.
        layers: inner layers of the model, with an embedding.
        folder: folder to make.
        max_images: largest number of images. Of more training images a sample is drawn, each class in proportion and
            with at least one image.
        thumbnail_px: longest side of a thumbnail; a smaller image keeps its size.

    Returns:
        The number of images N in the index.

    Raises:
        DataError: the model has no embedding.
    """
    rows = _stratified(splits.rows("train"), splits.labels, max_images)
    folder.mkdir(parents=True)
    sample = _stratified(
        rows, splits.labels, max(2 * MAX_DIMENSIONS, _FIT_NUMBERS // max(1, layers.embedding_size or 0))
    )
    # The components are fitted on what fits into memory; where that is all, no embedding is computed twice.
    known = _embeddings(splits, layers, sample)
    projection = _fit_projection(known)
    if projection is not None:
        np.save(folder / "projection.npy", np.vstack([projection.mean, projection.components.T]))
    embeddings = known if len(sample) == len(rows) else None
    _write_embeddings(splits, layers, rows, embeddings, projection, folder / "embeddings.npy")
    _write_thumbnails(splits, rows, thumbnail_px, folder)
    np.save(folder / "labels.npy", splits.labels[rows].astype(np.int32))
    ids = pq.read_table(splits.path / "index.parquet", columns=["id"])["id"].take(rows).to_pylist()
    (folder / "ids.json").write_text(json.dumps(ids, ensure_ascii=False) + "\n")
    if (usual := _usual_distance(np.load(folder / "embeddings.npy", mmap_mode="r"), splits.labels[rows])) is not None:
        write_json(folder / USUAL, {"distance": usual})
    return len(rows)


def _usual_distance(embeddings: NDArray[np.float32], labels: NDArray[np.int32]) -> float | None:
    """The distance within which `USUAL_SHARE` of unit vectors (N, D) have their nearest other one, of a sample of them;
    None for a single one."""
    if len(embeddings) < 2:
        return None
    rows = _stratified(np.arange(len(embeddings)), labels, _USUAL_SAMPLE)
    nearest = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _USUAL_BLOCK):
        block = rows[start : start + _USUAL_BLOCK]
        similarities = embeddings[block] @ embeddings.T  # (block, N)
        similarities[np.arange(len(block)), block] = -1  # itself
        nearest[start : start + len(block)] = similarities.max(axis=1)
    # Rounded, since the last bits depend on the processor and the package's digest covers it.
    return round(max(0.0, float(np.quantile(1 - nearest, USUAL_SHARE))), 4)


def _stratified(rows: NDArray[np.int64], labels: NDArray[np.int32], max_images: int) -> NDArray[np.int64]:
    """Draw at most `max_images` of `rows` (n,), each class in proportion, in ascending order."""
    if len(rows) <= max_images:
        return rows
    drawn = np.random.default_rng(_SEED).permutation(rows)
    # The share of its class that stands before a row. Sorting by it deals the classes out evenly, so a cut anywhere
    # takes the same share of each, and the first row of every class (share 0) comes before all others.
    share = np.empty(len(drawn))
    for label in np.unique(labels[drawn]):
        members = np.flatnonzero(labels[drawn] == label)
        share[members] = np.arange(len(members)) / len(members)
    return np.sort(drawn[np.argsort(share, kind="stable")[:max_images]])


def _embeddings(splits: Splits, layers: InnerLayers, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Compute the embeddings of the images of `rows` (n,), as (n, embedding_size)."""
    parts = [rows[start : start + _BATCH_SIZE] for start in range(0, len(rows), _BATCH_SIZE)]
    # A thread a batch, and not several in one: the bits do not depend on their number.
    with ThreadPoolExecutor(available_cpus()) as threads:
        return np.concatenate(list(threads.map(lambda part: layers.embeddings(splits.images[part]), parts)))


def _fit_projection(embeddings: NDArray[np.float32]) -> Projection | None:
    """Fit the principal components of embeddings (n, D); None if they are short enough."""
    if embeddings.shape[1] <= MAX_DIMENSIONS:
        return None
    from sklearn.decomposition import PCA  # takes 1.9 s of processor time; short embeddings do without

    # The randomized solver takes 1.9 s on a core for 10,700 embeddings of 3,136 values; the exact one takes 6.8 s.
    solver = PCA(min(MAX_DIMENSIONS, len(embeddings)), svd_solver="randomized", random_state=_SEED)
    with np.errstate(invalid="ignore"):  # PCA divides by the total variance: 0 if all embeddings are equal
        fitted = solver.fit(embeddings)
    return Projection(fitted.mean_.astype(np.float32), np.ascontiguousarray(fitted.components_.T, np.float32))


def _write_embeddings(
    splits: Splits,
    layers: InnerLayers,
    rows: NDArray[np.int64],
    known: NDArray[np.float32] | None,
    projection: Projection | None,
    path: Path,
) -> None:
    """Write the projected unit vectors of the images of `rows`; `known` are their embeddings, None to compute them."""
    dimensions = projection.components.shape[1] if projection else layers.embedding_size or 0
    written = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(len(rows), dimensions))
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        embeddings = _embeddings(splits, layers, rows[block]) if known is None else known[block]
        written[block] = unit_vectors(embeddings, projection)
    written.flush()


def _write_thumbnails(splits: Splits, rows: NDArray[np.int64], thumbnail_px: int, folder: Path) -> None:
    ends = [0]
    with (folder / "thumbnails.bin").open("wb") as file:
        for row in rows:
            ends.append(ends[-1] + file.write(_thumbnail(splits.images[row], thumbnail_px)))
    np.save(folder / "offsets.npy", np.array(ends, np.int64))


def _thumbnail(image: NDArray[np.uint8], side_px: int) -> bytes:
    """Encode an image (H, W, 1 or 3) as a JPEG file, with sides of at most `side_px`."""
    small = picture(image)
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    data = BytesIO()
    # Without subsampling: at half the colour resolution the colours of a 32-pixel image blur into each other.
    small.save(data, "JPEG", quality=_JPEG_QUALITY, subsampling=0, optimize=True)
    return data.getvalue()
