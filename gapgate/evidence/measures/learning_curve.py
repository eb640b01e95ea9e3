"""The parting of the learning curves of train and validation: the epoch, the distance, and both in words.

It explains a gap: from that epoch on, training improved the accuracy on train more than on new images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gapgate.evidence.measures.metrics import LEAST_RISE
from gapgate.text import number

LEAST_SPACE = 0.01
"""Least difference of the final accuracies (fraction) that counts as parted where the validation loss did not turn."""
EPOCHS_AFTER = 2
"""Least number of epochs after the lowest validation loss for the curves to part there. A loss that still falls has its
lowest value near the end."""

Reason = Literal["turn", "lowest", "above"]
"""Rule that found the epoch: `turn`, the validation loss turned there; `lowest`, it was lowest there; `above`, after it
train accuracy is always above validation accuracy."""
WORDS: dict[Reason, tuple[str, str]] = {
    "turn": ("where the validation loss turned", "validation loss turns"),
    "lowest": ("where the validation loss was lowest", "lowest validation loss"),
    "above": ("after which train is above validation", "train stays above validation"),
}
"""Reason → words for a sentence and for a figure's legend."""


@dataclass(frozen=True, slots=True)
class Parting:
    """Accuracies (fractions) at the epoch where the curves part and at the last epoch."""

    epoch: int
    last_epoch: int
    reason: Reason
    train: tuple[float, float]
    val: tuple[float, float]

    @property
    def ends(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Accuracies of train and of validation, each at the parting and at the end."""
        return self.train, self.val

    @property
    def space_points(self) -> float:
        """Distance between the two accuracies at the end, in percentage points."""
        return (self.train[1] - self.val[1]) * 100


def parting(history: Sequence[Mapping[str, Any]], curve: Mapping[str, Any]) -> Parting | None:
    """Find the epoch where the curves part; `curve` is `metrics.learning_curve` of the history.

    It is the epoch in which the validation loss turned. If the loss did not turn and the accuracies end a point or more
    apart, it is the epoch of the lowest loss, provided that two or more epochs follow; otherwise it is the epoch after
    which train accuracy stays above validation accuracy.

    Returns:
        None if the curves have not parted, or fewer than two epochs have both accuracies.
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
    # The wanted epoch may lack an accuracy: the first known epoch from there on stands for it, never the last one,
    # since a parting needs an end after it.
    epoch, train, val = next((line for line in known[:-1] if line[0] >= wanted), known[-2])
    return Parting(epoch, last_epoch, reason, (train, last_train), (val, last_val))


def in_words(parts: Parting | None, curve: Mapping[str, Any], train_settings: Mapping[str, Any]) -> list[str]:
    """Describe the curves in sentences; `curve` is `metrics.learning_curve` of the history."""
    if curve["num_epochs"] < 2:
        return ["One epoch makes no curve: nothing is to be seen of overfitting yet."] * curve["num_epochs"]
    said = (
        "During training the two accuracies stayed together: the running mean on train ends less than a point above "
        "validation, or below it."
    )
    return [_in_figures(parts) if parts else said, _loss_in_words(curve), *_stopping(curve, train_settings)]


def _in_figures(parts: Parting) -> str:
    train, val = (
        f"from {a * 100:.1f} to {b * 100:.1f} % ({number((b - a) * 100, '+.1f')} points)" for a, b in parts.ends
    )
    return (
        f"Since epoch {parts.epoch}, {WORDS[parts.reason][0]}, train accuracy went {train} "
        f"and validation accuracy {val}: they end {abs(parts.space_points):.1f} points apart."
    )


def _loss_in_words(curve: Mapping[str, Any]) -> str:
    """Say where the validation loss was lowest, where it ended, and whether that is a turn."""
    best, lowest, last = curve["best_epoch"], curve["best_val_loss"], curve["last_val_loss"]
    if best is None:
        return "There is no validation loss."
    ends = f"{lowest:.3f} at its lowest, in epoch {best}, and {last:.3f} at the end"
    if curve["gap_opens_epoch"] is not None:
        return (
            f"The validation loss turned after epoch {curve['gap_opens_epoch']} ({ends}): what was learned after that "
            "did not carry over to new images."
        )
    if last > lowest * (1 + LEAST_RISE):
        return (
            f"The validation loss ends above its lowest value ({ends}). It swings too much, or too few epochs follow, "
            "to tell a turn from noise."
        )
    return f"The validation loss did not turn in {curve['num_epochs']} epochs ({ends})."


def _stopping(curve: Mapping[str, Any], train_settings: Mapping[str, Any]) -> list[str]:
    """Say which epoch's weights the model has, where early stopping kept those of the best epoch."""
    if not train_settings.get("patience") or curve["best_epoch"] is None:
        return []
    early = curve["num_epochs"] < train_settings["epochs"]
    lead = f"Early stopping ended the training after {curve['num_epochs']} epochs: the" if early else "The"
    return [f"{lead} model has the weights of epoch {curve['best_epoch']}, the best on validation."]
