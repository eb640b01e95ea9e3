"""The result of a training, before it is written as a Model artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from gapgate.network.backbones import Backbone
from gapgate.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Trained:
    """Network with what it needs and what is known about its training."""

    recipe: Recipe
    model: nn.Module
    """Network on the CPU, in evaluation mode."""
    mean: Sequence[float]
    """Mean that its input has, in 0..1, (C,) or one value for each channel of its backbone."""
    std: Sequence[float]
    """Standard deviation that its input has."""
    history: Sequence[Mapping[str, float]]
    """Figures of each epoch; the last ones are of this network, or of its best epoch where there is patience."""
    environment: Mapping[str, Any]
    """Facts on which the bits depend, beside settings and data."""
    backbone: Backbone | None = None
    """Network from whose weights the training began."""
    num_operations: int = 0
    """Number of operations by which its training images were augmented."""

    @property
    def kept(self) -> Mapping[str, float]:
        """Figures of the epoch whose weights were kept."""
        return kept_epoch(self.history, self.recipe.patience)

    @property
    def val_score(self) -> dict[str, float]:
        """Loss and accuracy on val."""
        return {"loss": self.kept["val_loss"], "accuracy": self.kept["val_accuracy"]}


def kept_epoch(history: Sequence[Mapping[str, float]], patience: int) -> Mapping[str, float]:
    """Figures of the epoch whose weights a training keeps: the first of the smallest validation loss where there is
    patience, else the last."""
    return min(history, key=lambda figures: figures["val_loss"]) if patience else history[-1]
