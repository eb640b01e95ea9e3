"""Figures of a classifier: loss, per-class precision, recall and F1, confusion, and the turn of the validation loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

EPOCHS_AFTER_TURN = 3
"""A rise is judged on the median of this many last epochs, so one bad epoch is no turn."""
LEAST_RISE = 0.05
"""A rise below this share of the smallest loss is no turn."""
NOISE_FACTOR = 4.0
"""A rise below this many standard deviations of the epoch-to-epoch noise is no turn."""


def cross_entropy(logits: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """The loss of each image in nats, (N,), from logits (N, K) and labels (N,)."""
    wide = logits.astype(np.float64)
    loss: NDArray[np.float64] = logsumexp(wide, axis=1) - wide[np.arange(len(wide)), labels]
    return loss


def confusion(labels: NDArray[np.int32], predicted: NDArray[np.int32], num_classes: int) -> NDArray[np.int64]:
    """Counts (K, K): rows are the true classes, columns the predicted ones."""
    from sklearn.metrics import confusion_matrix  # a second and a half; the gate, which needs `finite`, does without

    counts: NDArray[np.int64] = confusion_matrix(labels, predicted, labels=np.arange(num_classes))
    return counts


def per_class(
    labels: NDArray[np.int32], predicted: NDArray[np.int32], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Precision, recall, F1 and support of each class; None where there is nothing to divide by."""
    from sklearn.metrics import precision_recall_fscore_support

    figures = precision_recall_fscore_support(
        labels, predicted, labels=np.arange(len(class_names)), zero_division=np.nan
    )
    return [
        {
            "name": name,
            "precision": finite(precision),
            "recall": finite(recall),
            "f1": finite(f1),
            "support": int(support),
        }
        for name, precision, recall, f1, support in zip(class_names, *figures, strict=True)
    ]


def learning_curve(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the epochs say: the best one by validation loss, and where validation turned while training went on."""
    losses = np.array([_number(epoch.get("val_loss")) for epoch in history], np.float64)
    known = np.flatnonzero(np.isfinite(losses))
    epochs = [int(epoch.get("epoch", index + 1)) for index, epoch in enumerate(history)]
    best = int(known[losses[known].argmin()]) if len(known) else None
    turn = val_loss_turn(losses[known])
    opens = None if turn is None else int(known[turn])
    return {
        "num_epochs": len(history),
        "best_epoch": None if best is None else epochs[best],
        "best_val_loss": None if best is None else float(losses[best]),
        "last_val_loss": float(losses[known[-1]]) if len(known) else None,
        "gap_opens_epoch": None if opens is None else epochs[opens],
    }


@np.errstate(over="ignore", invalid="ignore")  # of losses near the largest float: an infinite noise is no turn
def val_loss_turn(losses: NDArray[np.float64]) -> int | None:
    """The index of the epoch where the validation loss turned from falling to rising, or None when it did not.

    That epoch is the lowest beside the minimum of the running median over three epochs. It counts as a turn when at
    least three epochs follow and the median of the last three lies above that running median by more than 5 % and by
    more than four standard deviations of the noise. The noise is estimated from there on by second differences,
    robustly, so that neither the trend nor one spike is in it.
    """
    if len(losses) <= EPOCHS_AFTER_TURN:
        return None
    smooth = np.array([np.median(losses[max(0, i - 1) : i + 2]) for i in range(len(losses))])
    lowest, near = float(smooth.min()), max(0, int(smooth.argmin()) - 1)
    turn = near + int(losses[near : near + 3].argmin())  # a median of three blurs the place by one epoch
    if len(losses) - 1 - turn < EPOCHS_AFTER_TURN:
        return None
    noise = 1.4826 * float(np.median(np.abs(np.diff(losses[near:], 2)))) / math.sqrt(6)
    rise = float(np.median(losses[-EPOCHS_AFTER_TURN:])) - lowest
    return turn if rise > max(LEAST_RISE * lowest, NOISE_FACTOR * noise) else None


def finite(value: float) -> float | None:
    """A number for JSON: None instead of NaN or infinity."""
    return float(value) if math.isfinite(value) else None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
