"""Figures of a classifier: loss, precision, recall and F1 by class, confusion, and the turn of the validation loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

EPOCHS_AFTER_TURN = 3
"""Number of last epochs whose median is judged, so that one bad epoch is no turn."""
LEAST_RISE = 0.05
"""Share of the smallest loss below which a rise is no turn."""
NOISE_FACTOR = 4.0
"""Standard deviations of the epoch-to-epoch noise below which a rise is no turn."""


def cross_entropy(logits: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """Compute the loss of each image in nats, (N,), from logits (N, K) and labels (N,)."""
    from scipy.special import logsumexp  # takes 0.3 s; the gate imports this module for `finite` only

    wide = logits.astype(np.float64)
    loss: NDArray[np.float64] = logsumexp(wide, axis=1) - wide[np.arange(len(wide)), labels]
    return loss


def confusion(labels: NDArray[np.int32], predicted: NDArray[np.int32], num_classes: int) -> NDArray[np.int64]:
    """Count the answers, (K, K): rows are the true classes, columns the predicted ones."""
    from sklearn.metrics import confusion_matrix  # takes 1.5 s

    counts: NDArray[np.int64] = confusion_matrix(labels, predicted, labels=np.arange(num_classes))
    return counts


def per_class(
    labels: NDArray[np.int32], predicted: NDArray[np.int32], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Compute precision, recall, F1 and support of each class; None where the divisor would be 0.

    `labels` and `predicted` are (N,) class indices.
    """
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


def roc(
    labels: Sequence[int] | NDArray[np.int32], scores: Sequence[float], max_points: int
) -> tuple[list[float], list[float], list[float]]:
    """Compute the ROC curve of two classes: false positive rates, true positive rates and thresholds, of at most
    `max_points` points from (0, 0) to (1, 1).

    Args:
        labels: (N,) class indices; class 1 is the positive one.
        scores: (N,) probabilities of class 1.
    """
    from sklearn.metrics import roc_curve

    curve = np.stack(roc_curve(labels, scores))  # (3, points): both rates, and the thresholds
    if not np.isfinite(curve[:2]).all():  # test images of one class alone: a rate is 0 / 0
        return [], [], []
    curve[2, 0] = 1.0  # scikit-learn's first threshold is infinite, which is no JSON
    # `unique`: a curve of fewer points than `max_points` gets each index several times.
    kept = np.unique(np.linspace(0, curve.shape[1] - 1, max_points).astype(int))
    rates_and_thresholds: list[list[float]] = curve[:, kept].tolist()
    false_positive, true_positive, thresholds = rates_and_thresholds
    return false_positive, true_positive, thresholds


def learning_curve(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise the epochs: the best one by validation loss, and the one in which the validation loss turned."""
    losses = np.array([_number(epoch.get("val_loss")) for epoch in history], np.float64)
    known = np.flatnonzero(np.isfinite(losses))
    epochs = [int(epoch.get("epoch", index + 1)) for index, epoch in enumerate(history)]
    best = int(known[losses[known].argmin()]) if len(known) else None
    turn = val_loss_turn(losses[known])
    # `turn` is a place among the epochs that have a loss.
    opens = None if turn is None else int(known[turn])
    return {
        "num_epochs": len(history),
        "best_epoch": None if best is None else epochs[best],
        "best_val_loss": None if best is None else float(losses[best]),
        "last_val_loss": float(losses[known[-1]]) if len(known) else None,
        "gap_opens_epoch": None if opens is None else epochs[opens],
    }


@np.errstate(over="ignore", invalid="ignore")  # losses near the largest float give infinite noise: no turn
def val_loss_turn(losses: NDArray[np.float64]) -> int | None:
    """Find the index of the epoch where the validation loss turned from falling to rising; None when it did not.

    It is the epoch of the lowest loss (of at most three) around the minimum of the running median over three epochs. It
    counts as a turn when at least three epochs follow, and the median of the last three lies above that minimum by more
    than 5 % and by more than four standard deviations of the noise.

    Args:
        losses: (num_epochs,) finite validation losses.
    """
    if len(losses) <= EPOCHS_AFTER_TURN:
        return None
    smooth = np.array([np.median(losses[max(0, i - 1) : i + 2]) for i in range(len(losses))])
    lowest, near = float(smooth.min()), max(0, int(smooth.argmin()) - 1)
    turn = near + int(losses[near : near + 3].argmin())  # a median of three blurs the place by one epoch
    if len(losses) - 1 - turn < EPOCHS_AFTER_TURN:
        return None
    # Second differences remove a linear trend. Those of independent noise have 1² + 2² + 1² = 6 times its variance, and
    # 1.4826 turns a median absolute value into a standard deviation of a normal distribution, which one spike does not
    # change.
    noise = 1.4826 * float(np.median(np.abs(np.diff(losses[near:], 2)))) / math.sqrt(6)
    rise = float(np.median(losses[-EPOCHS_AFTER_TURN:])) - lowest
    return turn if rise > max(LEAST_RISE * lowest, NOISE_FACTOR * noise) else None


def finite(value: float) -> float | None:
    """Return a number for JSON: None instead of NaN or infinity."""
    return float(value) if math.isfinite(value) else None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
