"""Ranking of labels that may be wrong, by the answers of models that have not been trained on the images.

Confident learning (Northcutt, Jiang and Chuang 2021, https://doi.org/10.1613/jair.1.12125): an image is a suspect where
another class reaches the mean probability that this class has among its own images. The rank is by self-confidence, the
probability of the given label.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gapgate.data.splits import Splits
from gapgate.evidence.measures.predictions import Predictions

LISTED_IMAGES = 1000
"""Largest number of images in `evaluation.json` and `suspects.csv`."""
LEAST_LISTED = 100
"""Number of images that are listed even where nearly all answers are right and sure. Confident learning then has few
suspects or none: of MNIST's 15 test labels that people did not confirm, 2 (bench/RESULTS.md)."""
SHOWN_IMAGES = 40
"""Largest number of suspects in the report's picture."""
_LEAST_ADVANTAGE = 0.25
"""Least confidence of an answer against a label, as a share of the way from 1 / K, that of a model which knows nothing,
to 1."""


@dataclass(frozen=True, slots=True)
class Suspects:
    """Images in the order of doubt, the most doubtful label first; n images."""

    order: NDArray[np.int64]
    """Places in the given arrays, (n,)."""
    suggested: NDArray[np.int64]
    """Class of the largest probability apart from the label's, (n,), in the same order."""
    confidence: NDArray[np.float64]
    """Probability of the suggested class, (n,), in the same order."""
    self_confidence: NDArray[np.float64]
    """Probability of the label, (n,), in the same order."""
    is_suspect: NDArray[np.bool_]
    """True where confident learning holds the label for wrong, (n,), in the same order."""


def rank(labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]) -> Suspects:
    """Rank labels (n,) by the out-of-sample probabilities (n, K) of each class."""
    places = np.arange(len(labels))
    values = probabilities.astype(np.float64)
    own = values[places, labels]  # (n,) probability of the label
    sums = np.bincount(labels, own, minlength=values.shape[1])
    counts = np.bincount(labels, minlength=values.shape[1])
    # A class without images can be nobody's true class here.
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    confident = np.where(values >= thresholds, values, -1)  # (n, K)
    is_suspect = (confident.max(1) >= 0) & (confident.argmax(1) != labels)
    others = values.copy()
    others[places, labels] = -1
    order = np.argsort(own, kind="stable")
    return Suspects(order, others.argmax(1)[order], others.max(1)[order], own[order], is_suspect[order])


def estimate_wrong(labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]) -> int:
    """Estimate how many labels (n,) are wrong, by the out-of-sample probabilities (n, K); a standard error less than
    the likeliest number.

    A mistake about a hard image has a low confidence. A wrong label lies on images as easy as any other, so the answers
    against it are as confident as right ones: a half of them more than the median of those, a quarter more than the
    upper quartile. The lower of the two estimates is taken. Wrong labels spread over all pairs of classes; the pair of
    most answers may be two classes that look alike, and counts as the others on average.
    """
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    right = predicted == labels
    if not right.any():
        return 0
    num_classes = probabilities.shape[1]
    num_pairs = num_classes * (num_classes - 1) // 2
    pairs = np.minimum(labels, predicted) * num_classes + np.maximum(labels, predicted)  # one number for both orders
    found = []
    for share in (0.5, 0.75):
        least = max(
            1 / num_classes + _LEAST_ADVANTAGE * (1 - 1 / num_classes), float(np.quantile(confidence[right], share))
        )
        above = np.bincount(pairs[~right & (confidence > least)], minlength=1)
        spread = float(above.sum())
        # Two classes make one pair; without it nothing is left to estimate from.
        if num_pairs > 1:
            spread = (spread - above.max()) * num_pairs / (num_pairs - 1)
        # The standard error of a count is its root (Poisson).
        found.append((spread - math.sqrt(spread)) / (1 - share))
    return max(0, min(round(min(found)), int((~right).sum())))


def find(unseen: Sequence[Predictions], splits: Splits) -> dict[str, Any]:
    """Rank the images of all predictions by a model that was not trained on them, for `evaluation.json`."""
    labels = np.concatenate([p.labels for p in unseen])
    rows = np.concatenate([p.rows for p in unseen])
    probabilities = np.concatenate([p.probabilities for p in unseen])
    found = rank(labels, probabilities)
    ids = pq.read_table(splits.path / "index.parquet", columns=["id"])["id"].to_pylist()
    return {
        "num_images": len(labels),
        "num_suspects": int(found.is_suspect.sum()),
        "estimated_wrong": estimate_wrong(labels, probabilities),
        "images": rows_of(found, rows, ids, labels, LISTED_IMAGES),
    }


def rows_of(
    found: Suspects,
    rows: NDArray[np.int64],
    ids: Sequence[str],
    labels: NDArray[np.integer[Any]],
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """List the most doubtful labels as JSON-able rows, at most `limit`: row, id, label, suggested, confidence,
    self_confidence, is_suspect. They are the suspects, all whose answer is another class, and the first `LEAST_LISTED`.

    Args:
        found: result of `rank`.
        rows: row of each ranked image in the splits, (n,).
        ids: id of every row of the splits.
        labels: label of each ranked image, (n,).
        limit: largest number of rows; None: all.
    """
    is_listed = found.is_suspect | (found.confidence > found.self_confidence)
    is_listed[:LEAST_LISTED] = True
    chosen = np.flatnonzero(is_listed)[:limit]
    return [
        {
            "row": int(rows[found.order[at]]),
            "id": ids[int(rows[found.order[at]])],
            "label": int(labels[found.order[at]]),
            "suggested": int(found.suggested[at]),
            "confidence": round(float(found.confidence[at]), 6),
            "self_confidence": round(float(found.self_confidence[at]), 6),
            "is_suspect": bool(found.is_suspect[at]),
        }
        for at in chosen
    ]


def write_csv(path: Path, suspects: Iterable[Mapping[str, Any]], class_names: Sequence[str]) -> None:
    """Write a line for each listed image, most doubtful first; the columns are those of `rows_of`, with the rank."""
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["rank", "id", "label", "suggested", "self_confidence", "is_suspect"])
        for place, one in enumerate(suspects, start=1):
            names = class_names[one["label"]], class_names[one["suggested"]]
            lines.writerow([place, one["id"], *names, one["self_confidence"], str(one["is_suspect"]).lower()])
