"""Comparison of champion and challenger: both ONNX files answer the same images, and are counted image by image."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from gapgate.evidence.measures.gap import Interval
from gapgate.onnx.classifier import Classifier, shape_text


class Comparison(BaseModel):
    """Counts of right answers of two models on the same images."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    comparable: bool
    """False if the two take images of different shapes, know different numbers of classes, or there are no images."""
    not_worse: bool
    """True if the challenger got at least as many images right; False if the two cannot be compared."""
    reason: str
    """Explanation of the result, in one sentence."""
    num_images: int
    champion_accuracy: float | None = None
    challenger_accuracy: float | None = None
    difference_points: float | None = None
    """Difference of the accuracies in percentage points: (challenger − champion) × 100."""
    only_champion_right: int | None = None
    """Number of images that only the champion gets right: those that the challenger would newly get wrong."""
    only_challenger_right: int | None = None
    """Number of images that only the challenger gets right."""


def compare(
    champion: Classifier, challenger: Classifier, images: NDArray[np.uint8], labels: NDArray[np.int32]
) -> Comparison:
    """Run both models on images (N, H, W, C) with labels (N,) that neither was trained on."""
    if (reason := _incomparable(champion, challenger, images)) is not None:
        return Comparison(comparable=False, not_worse=False, reason=reason, num_images=len(images))
    old = champion.logits(images).argmax(axis=1) == labels
    new = challenger.logits(images).argmax(axis=1) == labels
    return _counted(old, new, "test images")


def compare_answers(champion: Path | None, challenger: Path) -> Comparison:
    """Compare the `predictions.parquet` of two evaluations on the images that both held out, found by their content.

    After a cross-validation the model itself has seen all images; the answers are of models that had not.
    """
    if champion is None:
        reason = "the champion's answers are not among the files of its MLflow run"
        return Comparison(comparable=False, not_worse=False, reason=reason, num_images=0)
    old, new = held_out(champion), held_out(challenger)
    shared = sorted(image for image in new if image in old)
    if not shared:
        reason = "no image was held out in both evaluations"
        return Comparison(comparable=False, not_worse=False, reason=reason, num_images=0)
    olds, news = (np.array([found[image].correct for image in shared]) for found in (old, new))
    return _counted(olds, news, "images that both evaluations held out")


class Answer(NamedTuple):
    """An answer to an image that was held out."""

    id: str
    row: int
    """Row of the evaluation's splits."""
    predicted: int
    confidence: float
    correct: bool


def held_out(path: Path) -> dict[tuple[str, int], Answer]:
    """Read (content hash, label) → answer of all held-out images of a `predictions.parquet`. The label is part of the
    name, since it may have been corrected between two evaluations."""
    columns = ["content_hash", "label", *Answer._fields]
    table = pq.read_table(path, columns=columns, filters=[("split", "==", "test")])
    hashes, labels, *fields = (table[name].to_pylist() for name in columns)
    answers = (Answer(*values) for values in zip(*fields, strict=True))
    return dict(zip(zip(hashes, labels, strict=True), answers, strict=True))


def difference_points(only_old: int, only_new: int, num_images: int, confidence_level: float = 0.95) -> Interval:
    """Compute the difference of two accuracies on the same images, new − old in percentage points, with its interval
    (Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions").

    Args:
        only_old: number of images that only the old model gets right.
        only_new: number of images that only the new model gets right.
        num_images: number of all images.
        confidence_level: confidence level of the interval.
    """
    z = NormalDist().inv_cdf((1 + confidence_level) / 2)
    # Half a pair is added to each of the four cells, so that few images do not look certain.
    old, new = ((count + 0.5) / (num_images + 2) for count in (only_old, only_new))
    half = z * math.sqrt((old + new - (new - old) ** 2) / (num_images + 2))
    low, high = max(-1.0, new - old - half), min(1.0, new - old + half)
    return Interval(100 * (only_new - only_old) / num_images, 100 * low, 100 * high)


def _counted(old: NDArray[np.bool_], new: NDArray[np.bool_], images: str) -> Comparison:
    not_worse = bool(new.sum() >= old.sum())
    return Comparison(
        comparable=True,
        not_worse=not_worse,
        reason=f"the challenger gets {new.sum():,} of {len(new):,} {images} right, the champion {old.sum():,}",
        num_images=len(new),
        champion_accuracy=float(old.mean()),
        challenger_accuracy=float(new.mean()),
        difference_points=float(new.mean() - old.mean()) * 100,
        only_champion_right=int((old & ~new).sum()),
        only_challenger_right=int((new & ~old).sum()),
    )


def _incomparable(champion: Classifier, challenger: Classifier, images: NDArray[np.uint8]) -> str | None:
    """Return the reason why the two cannot be compared on images (N, H, W, C), or None if they can."""
    if len(images) == 0:
        return "there are no test images to compare the models on"
    for name, model in (("champion", champion), ("challenger", challenger)):
        if model.image_shape != images.shape[1:]:
            taken, given = shape_text(model.image_shape), shape_text(images.shape[1:])
            return f"the {name} takes images of {taken}, the test images are {given}"
    if champion.num_classes != challenger.num_classes:
        return f"the champion knows {champion.num_classes} classes, the challenger {challenger.num_classes}"
    return None
