"""Explanation of the most confident mistakes: the pixels that counted, and the nearest training images.

A near training image that looks the same and has the label of the wrong answer explains the mistake: the two are
look-alikes, or one label is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gapgate.data.splits import Splits
from gapgate.evidence.measures.predictions import Predictions
from gapgate.onnx.classifier import Classifier
from gapgate.onnx.embedding_index import cosines
from gapgate.onnx.inner_layers import InnerLayers
from gapgate.onnx.occlusion import heat_pixels, occlusion

MAX_MISTAKES = 6
NUM_NEAREST = 5
MAX_SHOWN, MAX_SHOWN_OF_PAIR = 240, 12
"""Largest number of mistakes with a picture, in all and of one pair of classes."""
_BLOCK_ROWS = 1000
"""Number of training images whose embeddings are in memory at a time."""
_NUM_ALIKE = 500
"""Number of training images whose embeddings are compared with each mistake. For 60 mistakes of the tutorial CNN they
held 99.7 % of the 5 nearest among 20,000, in a sixth of the time."""
_MIN_CLASSES = 5
"""Least number of classes for choosing candidates by their answers; those of fewer classes say too little about the
embeddings."""
_BATCH_SIZE = 32
"""Number of images in a call of the model; 32 took four fifths of the time of 250 on the tutorial CNN."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One test image with a wrong answer, as it is drawn."""

    image: NDArray[np.uint8]
    """Test image (H, W, C)."""
    heat: NDArray[np.uint8]
    """Image with the occlusion heat of the answer over it, (h, w, 3)."""
    label: int
    predicted: int
    confidence: float
    nearest_images: list[NDArray[np.uint8]]
    nearest_labels: list[int]
    similarities: list[float]


def confident_mistakes(test: Predictions, count: int) -> NDArray[np.int64]:
    """Find the `count` mistakes with the highest confidence, as indices into `test`, highest first."""
    wrong = np.flatnonzero(~test.correct)
    # Stable: among equal ones the order of the split holds, so equal models give equal reports.
    return wrong[np.argsort(-test.confidence[wrong], kind="stable")][:count]


def shown(test: Predictions, splits: Splits) -> list[dict[str, Any]]:
    """List the mistakes on test that have a picture, the most confident first, for `evaluation.json`."""
    of_pair: Counter[tuple[int, int]] = Counter()
    chosen = []
    for at in confident_mistakes(test, len(test.rows)):
        pair = (int(test.labels[at]), int(test.predicted[at]))
        of_pair[pair] += 1
        if of_pair[pair] <= MAX_SHOWN_OF_PAIR:
            chosen.append(int(at))
    ids = pq.read_table(splits.path / "index.parquet", columns=["id"])["id"]
    return [_described(test, at, ids) for at in chosen[:MAX_SHOWN]]


def _described(test: Predictions, at: int, ids: pa.ChunkedArray) -> dict[str, Any]:
    """The answer `at` of `test`, for `evaluation.json`; `ids` are those of all rows."""
    return {
        "row": int(test.rows[at]),
        "id": ids[int(test.rows[at])].as_py(),
        "label": int(test.labels[at]),
        "predicted": int(test.predicted[at]),
        "confidence": float(test.confidence[at]),
    }


def find(layers: InnerLayers, splits: Splits, train: Predictions, test: Predictions) -> list[dict[str, Any]]:
    """Find the most confident mistakes on test, each with its nearest images of `train`, for `evaluation.json`."""
    chosen = confident_mistakes(test, MAX_MISTAKES)
    if layers.embedding_size is None or len(chosen) == 0:
        return []
    # Of a cross-validation, an image has an answer of each model that has seen it, and the mistakes are among them.
    rows, first = np.unique(train.rows, return_index=True)
    candidates = _alike(test.probabilities[chosen], train.probabilities[first])
    train_rows = np.setdiff1d(rows[candidates], test.rows[chosen])
    places, similarities = nearest(layers, splits, train_rows, test.rows[chosen])
    ids = pq.read_table(splits.path / "index.parquet", columns=["id"])["id"]
    return [
        _described(test, at, ids)
        | {
            "nearest": [
                {
                    "row": int(row),
                    "id": ids[int(row)].as_py(),
                    "label": int(splits.labels[row]),
                    "similarity": round(float(similarity), 4),
                }
                for row, similarity in zip(train_rows[near], similar, strict=True)
            ],
        }
        for at, near, similar in zip(chosen, places, similarities, strict=True)
    ]


def nearest(
    layers: InnerLayers, splits: Splits, train_rows: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the nearest training images of each image in `rows` (q,) among `train_rows` (n,).

    Returns:
        Indices into `train_rows`, and the cosines of the embeddings: (q, k) each, nearest first, ties by index; k is
        `NUM_NEAREST`, or n where there are fewer.
    """
    queries = layers.embeddings(splits.images[rows])  # (q, D)
    similarities = np.empty((len(rows), len(train_rows)))  # (q, n)
    # In blocks, because only the cosines are kept: an embedding of 3,136 float32 values takes 12.5 kB.
    for start in range(0, len(train_rows), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        similarities[:, block] = cosines(queries, layers.embeddings(splits.images[train_rows[block]], _BATCH_SIZE))
    places = np.argsort(-similarities, axis=1, kind="stable")[:, :NUM_NEAREST]
    return places, np.take_along_axis(similarities, places, axis=1)


def _alike(queries: NDArray[np.float32], answers: NDArray[np.float32]) -> NDArray[np.int64]:
    """Find the answers (n, K) that are most like one of the queries (q, K): indices, ascending; all with few classes.

    Answers are compared by the cosine of centred logits. The last layer computes the logits from the embedding, so
    images with near embeddings have near answers, and those are cheap to compare.
    """
    if answers.shape[1] < _MIN_CLASSES:
        return np.arange(len(answers))
    likeness = cosines(_centred_logits(queries), _centred_logits(answers))  # (q, n)
    return np.unique(np.argsort(-likeness, axis=1, kind="stable")[:, :_NUM_ALIKE])


def _centred_logits(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    # Softmax loses a constant that is added to all logits; centring takes it out on both sides. A probability that
    # was rounded to 0 has no logarithm.
    logits = np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float32).tiny))
    centred: NDArray[np.float64] = logits - logits.mean(axis=1, keepdims=True)
    return centred


def draw(found: Sequence[dict[str, Any]], classifier: Classifier, splits: Splits, fill: int) -> list[Mistake]:
    """Add the pixels to the entries of `find`; `fill` is the transform's, see `occlusion`."""
    mistakes = []
    for entry in found:
        image = splits.images[entry["row"]]
        heat = occlusion(classifier, image, entry["predicted"], fill=fill, cancelled=lambda: False)
        assert heat is not None  # nobody cancels
        mistakes.append(
            Mistake(
                image=image,
                heat=heat_pixels(image, heat),
                label=entry["label"],
                predicted=entry["predicted"],
                confidence=entry["confidence"],
                nearest_images=[splits.images[near["row"]] for near in entry["nearest"]],
                nearest_labels=[near["label"] for near in entry["nearest"]],
                similarities=[near["similarity"] for near in entry["nearest"]],
            )
        )
    return mistakes
