"""Comparison of champion and challenger: both ONNX files answer the same images, and are counted image by image."""

from __future__ import annotations

import numpy as np
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
    not_worse = bool(new.sum() >= old.sum())
    return Comparison(
        comparable=True,
        not_worse=not_worse,
        reason=f"the challenger gets {new.sum():,} of {len(images):,} test images right, the champion {old.sum():,}",
        num_images=len(images),
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
