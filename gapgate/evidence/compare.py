"""Comparison of champion and challenger: both ONNX files answer the same images, and are counted image by image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

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
    old, new = _held_out(champion), _held_out(challenger)
    # The label too: it may have been corrected since.
    shared = sorted(image for image in new if image in old)
    if not shared:
        reason = "no image was held out in both evaluations"
        return Comparison(comparable=False, not_worse=False, reason=reason, num_images=0)
    olds, news = (np.array([found[image] for image in shared]) for found in (old, new))
    return _counted(olds, news, "images that both evaluations held out")


def _held_out(path: Path) -> dict[tuple[str, int], bool]:
    """Return (content hash, label) → True where the answer is right, of all held-out images."""
    columns = ["content_hash", "label", "correct"]
    table = pq.read_table(path, columns=columns, filters=[("split", "==", "test")])
    hashes, labels, rights = (table[name].to_pylist() for name in columns)
    return dict(zip(zip(hashes, labels, strict=True), rights, strict=True))


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
