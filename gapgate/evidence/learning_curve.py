"""Where the learning curves of train and validation part, and how far: why a network has the gap that it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gapgate.text import number

LEAST_SPACE = 0.01
"""Accuracies that end closer than this have not parted, unless the validation loss says so."""
EPOCHS_AFTER = 2
"""Behind the lowest validation loss, for it to be the place; a loss that still falls has its lowest near the end."""

Reason = Literal["turn", "lowest", "above"]
"""The validation loss turned there; it was lowest there; after it train accuracy is always above validation's."""
WORDS: dict[Reason, tuple[str, str]] = {
    "turn": ("where the validation loss turned", "validation loss turns"),
    "lowest": ("where the validation loss was lowest", "lowest validation loss"),
    "above": ("after which train is above validation", "train stays above validation"),
}
"""For a sentence, and for a figure's legend."""


@dataclass(frozen=True, slots=True)
class Parting:
    """The accuracies at the epoch where the curves part, and at the last one. Fractions."""

    epoch: int
    last_epoch: int
    reason: Reason
    train: tuple[float, float]
    val: tuple[float, float]

    @property
    def ends(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Train's and validation's."""
        return self.train, self.val

    @property
    def space_points(self) -> float:
        """Between the accuracies at the end, in percentage points."""
        return (self.train[1] - self.val[1]) * 100


def parting(history: Sequence[Mapping[str, Any]], curve: Mapping[str, Any]) -> Parting | None:
    """The epoch where the curves part; `curve` is `metrics.learning_curve` of the history.

    It is the one where the validation loss turned. Where it did not turn and the accuracies end a point or more apart,
    it is the one where the loss was lowest, if two or more follow; else the one after which train stays above.

    Returns:
        None where they have not parted, or fewer than two epochs have both accuracies.
    """
    known = [
        (int(line.get("epoch", index + 1)), float(line["train_accuracy"]), float(line["val_accuracy"]))
        for index, line in enumerate(history)
        if line.get("train_accuracy") is not None and line.get("val_accuracy") is not None
    ]
    if len(known) < 2:
        return None
    (last_epoch, last_train, last_val), turn, best = known[-1], curve["gap_opens_epoch"], curve["best_epoch"]
    reason: Reason
    if turn is None and last_train - last_val < LEAST_SPACE:
        return None
    if turn is not None:
        reason, wanted = "turn", turn
    elif best is not None and best <= last_epoch - EPOCHS_AFTER:
        reason, wanted = "lowest", best
    else:
        reason, wanted = "above", max((epoch for epoch, train, val in known if train <= val), default=0)
    epoch, train, val = next((line for line in known[:-1] if line[0] >= wanted), known[-2])
    return Parting(epoch, last_epoch, reason, (train, last_train), (val, last_val))


def in_words(parts: Parting | None, curve: Mapping[str, Any], train_settings: Mapping[str, Any]) -> list[str]:
    """What the curves say, a sentence each; `curve` is `metrics.learning_curve` of the history."""
    if curve["num_epochs"] < 2:
        return ["One epoch makes no curve: nothing is to be seen of overfitting yet."] * curve["num_epochs"]
    said = "The accuracies have not parted: train does not end a point above validation."
    return [_in_figures(parts) if parts else said, *_stopping(curve, train_settings)]


def _in_figures(parts: Parting) -> str:
    train, val = (
        f"from {a * 100:.1f} to {b * 100:.1f} % ({number((b - a) * 100, '+.1f')} points)" for a, b in parts.ends
    )
    return (
        f"Since epoch {parts.epoch}, {WORDS[parts.reason][0]}, train accuracy went {train} "
        f"and validation accuracy {val}: they end {abs(parts.space_points):.1f} points apart."
    )


def _stopping(curve: Mapping[str, Any], train_settings: Mapping[str, Any]) -> list[str]:
    """Early stopping ends with the weights of the best epoch, which the last epoch's figures are not of."""
    if not train_settings.get("patience") or curve["best_epoch"] is None:
        return []
    early = curve["num_epochs"] < train_settings["epochs"]
    lead = f"Early stopping ended the training after {curve['num_epochs']} epochs: the" if early else "The"
    return [f"{lead} model has the weights of epoch {curve['best_epoch']}, the best on validation."]
