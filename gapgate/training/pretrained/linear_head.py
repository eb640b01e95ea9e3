"""The last layer on fixed features: multinomial logistic regression, its weight decay chosen by cross-validation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FOLDS = 3
PENALTIES = tuple(float(10.0**power) for power in (0, -1, -2, -3, -4))
"""Weight decays that are tried, from the strongest: λ of mean cross-entropy + λ / 2 · ‖W‖² on standardised features."""


@dataclass(frozen=True, slots=True)
class LinearHead:
    """Dense layer for K classes on d features."""

    weight: NDArray[np.float32]
    """(K, d)"""
    bias: NDArray[np.float32]
    """(K,)"""
    penalty: float
    """Weight decay that was chosen."""

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the logits (n, K) of features (n, d)."""
        return features @ self.weight.T + self.bias


def fit(
    features: NDArray[np.float32],
    labels: NDArray[np.int32],
    num_classes: int,
    *,
    groups: NDArray[np.int64] | None = None,
    is_balanced: bool = False,
    seed: int = 0,
) -> LinearHead:
    """Fit the layer to features (n, d) with labels (n,).

    The penalty of `PENALTIES` with the least cross-entropy on held-out folds of these images is taken; `groups` (n,)
    stay in one fold. A class without images keeps its place, with a bias that never wins.
    """
    from threadpoolctl import threadpool_limits  # of scikit-learn

    # One thread: the bits do not depend on their number, and on small matrices several cost more than they bring.
    with threadpool_limits(1):
        mean, std = features.mean(axis=0), features.std(axis=0)
        # A feature that is the same in all images becomes 0, and not 0 / 0. Its mean is rounded, so its standard
        # deviation can be 2 · 10⁻⁸ in the place of 0: divided by that, a feature of 0.1 got a weight of 130,000.
        std[(std == 0) | (np.ptp(features, axis=0) == 0)] = 1
        inputs = ((features - mean) / std).astype(np.float64)  # (n, d)
        # With fewer images than features, the weights lie in the space that the images span (representer theorem), and
        # the same fit in its coordinates takes a third of the time.
        basis = np.linalg.qr(inputs.T)[0] if len(inputs) < inputs.shape[1] else np.eye(inputs.shape[1])
        inputs = inputs @ basis  # (n, min(n, d))
        penalty = _choose(inputs, labels, groups, is_balanced, seed)
        classes, weight, bias = _solve(inputs, labels, [penalty], is_balanced, tolerance=1e-5)[0]
        weight = weight @ basis.T  # (c, d)
    # Back from standardised features: W (f − mean) / std + b.
    full_weight = np.zeros((num_classes, features.shape[1]))
    # e⁻²⁰ is 2 · 10⁻⁹: such a class is never the answer, but its probability is not 0, whose logarithm is infinite.
    full_bias = np.full(num_classes, bias.min() - 20.0)
    full_weight[classes] = weight / std
    full_bias[classes] = bias - full_weight[classes] @ mean
    return LinearHead(full_weight.astype(np.float32), full_bias.astype(np.float32), penalty)


def _choose(
    inputs: NDArray[np.float64],
    labels: NDArray[np.int32],
    groups: NDArray[np.int64] | None,
    is_balanced: bool,
    seed: int,
) -> float:
    """Return the penalty with the least cross-entropy over the held-out folds; the middle one for too few images."""
    from sklearn.model_selection import StratifiedGroupKFold  # a second; only where a head is fitted

    middle = PENALTIES[len(PENALTIES) // 2]
    units = np.arange(len(labels)) if groups is None else groups
    folds = min(FOLDS, len(np.unique(units)))
    if folds < 2 or len(np.unique(labels)) < 2:
        return middle
    losses = np.zeros(len(PENALTIES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer images than folds
        parts = list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(inputs, labels, units))
    for train, held_out in parts:
        if len(np.unique(labels[train])) < 2:
            return middle
        for at, (classes, weight, bias) in enumerate(_solve(inputs[train], labels[train], PENALTIES, is_balanced)):
            # Far below the others, for classes that these training images lack.
            logits = np.full((len(held_out), labels.max() + 1), -20.0)  # (held out, K)
            logits[:, classes] = inputs[held_out] @ weight.T + bias
            losses[at] += _cross_entropy(logits, labels[held_out])
    return PENALTIES[int(losses.argmin())]


def _solve(
    inputs: NDArray[np.float64],
    labels: NDArray[np.int32],
    penalties: Sequence[float],
    is_balanced: bool,
    tolerance: float = 1e-3,
) -> list[tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]]:
    """Fit for each penalty, from the strongest on; each fit starts where the one before ended.

    Returns:
        For each penalty the classes that have images (c,), their weights (c, d) and biases (c,).
    """
    from sklearn.linear_model import LogisticRegression

    classes = np.unique(labels)
    if len(classes) == 1:
        return [(classes, np.zeros((1, inputs.shape[1])), np.zeros(1)) for _ in penalties]
    solver = LogisticRegression(
        tol=tolerance, max_iter=1000, warm_start=True, class_weight="balanced" if is_balanced else None
    )
    found = []
    for penalty in penalties:
        # scikit-learn's C weighs the summed cross-entropy against ½‖W‖².
        solver.C = 1 / (penalty * len(labels))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 1,000 steps without convergence at the weakest penalty are an answer too
            solver.fit(inputs, labels)
        weight, bias = solver.coef_.copy(), solver.intercept_.copy()
        if len(classes) == 2:  # scikit-learn gives the second class alone
            weight, bias = np.concatenate((-weight, weight)) / 2, np.concatenate((-bias, bias)) / 2
        found.append((classes, weight, bias))
    return found


def _cross_entropy(logits: NDArray[np.float64], labels: NDArray[np.int32]) -> float:
    """Sum the cross-entropy of logits (n, K), in nats."""
    # log Σ exp x = m + log Σ exp(x − m); without m = max x, exp overflows float64 above 709.
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]).sum())
