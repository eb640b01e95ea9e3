"""Champion and challenger on the same images: both ONNX files run, image by image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from gapgate.onnx.classifier import Classifier, shape_text


class Comparison(BaseModel):
    """What two models did with the same images."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    comparable: bool
    """False: the two do not take the same images or do not know the same number of classes."""
    not_worse: bool
    """Whether the challenger got at least as many images right; False where they cannot be compared."""
    reason: str
    """One sentence."""
    num_images: int
    champion_accuracy: float | None = None
    challenger_accuracy: float | None = None
    difference_points: float | None = None
    """(challenger − champion) × 100."""
    only_champion_right: int | None = None
    """Images that newly break."""
    only_challenger_right: int | None = None
    """Images that are newly right."""


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
    """Why the two cannot be compared on these images, or None."""
    if len(images) == 0:
        return "there are no test images to compare the models on"
    for name, model in (("champion", champion), ("challenger", challenger)):
        if model.image_shape != images.shape[1:]:
            taken, given = shape_text(model.image_shape), shape_text(images.shape[1:])
            return f"the {name} takes images of {taken}, the test images are {given}"
    if champion.num_classes != challenger.num_classes:
        return f"the champion knows {champion.num_classes} classes, the challenger {challenger.num_classes}"
    return None
