"""Nearest training images by the cosine distance of embeddings: exact search over a memory-mapped array.

embeddings.npy   (N, D) float32, of unit length
labels.npy       (N,) int32
ids.json         N strings
thumbnails.bin   N JPEG files, one after the other
offsets.npy      (N + 1,) int64: image n is thumbnails.bin[offsets[n]:offsets[n + 1]]
projection.npy   (1 + D, D0) float32, the mean and the components, where embeddings are longer than `MAX_DIMENSIONS`
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapgate.errors import ArtifactError

MAX_DIMENSIONS = 128
"""Longer embeddings are projected onto their first principal components: 100,000 images take 51 MB."""

_ROUNDING = 2 * MAX_DIMENSIONS * float(np.finfo(np.float32).eps)
"""Two dot products of unit vectors in float32, in whatever order BLAS adds them, are off by no more together."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A training image that is near."""

    row: int
    """In the index."""
    id: str
    label: int
    """Index of its class."""
    distance: float
    """1 − cosine: 0 the same direction, 1 at right angles, 2 opposite."""


@dataclass(frozen=True, slots=True)
class Projection:
    """Embeddings → their principal components."""

    mean: NDArray[np.float32]
    """(D0,)"""
    components: NDArray[np.float32]
    """(D0, D)"""


@dataclass(frozen=True, slots=True)
class EmbeddingIndex:
    """A package's `similar` folder, memory-mapped. Calls from several threads at once are safe."""

    embeddings: NDArray[np.float32]
    """(N, D), unit length"""
    labels: NDArray[np.int32]
    ids: list[str]
    thumbnails: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    projection: Projection | None

    @classmethod
    def open(cls, folder: Path) -> EmbeddingIndex:
        """Map the files; the embeddings are read at the first search.

        Raises:
            ArtifactError: a file is missing, or they disagree in the number of images.
        """
        try:
            embeddings = np.load(folder / "embeddings.npy", mmap_mode="r")
            index = cls(
                embeddings=embeddings,
                labels=np.load(folder / "labels.npy"),
                ids=json.loads((folder / "ids.json").read_text()),
                thumbnails=np.memmap(folder / "thumbnails.bin", np.uint8, "r"),
                offsets=np.load(folder / "offsets.npy"),
                projection=_load_projection(folder / "projection.npy"),
            )
        except FileNotFoundError as error:
            raise ArtifactError(f"{error.filename} is missing; package the model again") from None
        if not len(embeddings) == len(index.labels) == len(index.ids) == len(index.offsets) - 1:
            raise ArtifactError(f"the files in {folder} are of different numbers of images; package the model again")
        return index

    def __len__(self) -> int:
        return len(self.embeddings)

    def search(self, embedding: NDArray[np.float32], k: int) -> list[Neighbour]:
        """The `k` nearest images (all, where there are fewer) to an embedding (D0,), nearest first; ties by row."""
        k = min(k, len(self))
        if k < 1:
            return []
        query = unit_vectors(embedding[np.newaxis], self.projection)[0]
        similarities = self.embeddings @ query  # (N,)
        least = np.partition(similarities, -k)[-k]
        # Equal vectors get unequal last bits from BLAS, by their place; the few that are near are computed afresh.
        rows = np.flatnonzero(similarities >= least - _ROUNDING)
        distances = np.clip(1 - cosines(query[np.newaxis], self.embeddings[rows])[0], 0, 2)
        nearest = np.argsort(distances, kind="stable")[:k]
        return [
            Neighbour(int(row), self.ids[row], int(self.labels[row]), float(distance))
            for row, distance in zip(rows[nearest], distances[nearest], strict=True)
        ]

    def thumbnail(self, row: int) -> bytes:
        """The image of a row as a JPEG file."""
        return self.thumbnails[self.offsets[row] : self.offsets[row + 1]].tobytes()


def unit_vectors(embeddings: NDArray[np.float32], projection: Projection | None) -> NDArray[np.float32]:
    """Embeddings (n, D0) → projected where asked, and of unit length, (n, D); a zero vector stays zero."""
    vectors = embeddings if projection is None else (embeddings - projection.mean) @ projection.components
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(
        np.float32, copy=False
    )
    return unit


def cosines(queries: NDArray[Any], vectors: NDArray[Any]) -> NDArray[np.float64]:
    """The cosine of each query (q, D) with each vector (n, D), as (q, n). 0 for a zero vector."""
    # Not BLAS: equal vectors get equal cosines, whatever their place.
    found: NDArray[np.float64] = np.einsum("qd,nd->qn", _unit(queries), _unit(vectors))
    return found


def _unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """(n, D) → of unit length; a zero vector stays zero."""
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: NDArray[np.float64] = wide / np.where(lengths > 0, lengths, 1)
    return unit


def _load_projection(path: Path) -> Projection | None:
    if not path.is_file():
        return None
    rows = np.load(path)
    return Projection(rows[0], np.ascontiguousarray(rows[1:].T))
