"""The overfitting gap and its interval.

    gap = (accuracy(train) − accuracy(test)) × 100, in percentage points

**Interval.** Resampling images with replacement gives a perfect score a width of zero: ten right out of ten would be
certain. Instead the accuracy is drawn from the Jeffreys posterior Beta(k + ½, n − k + ½) of k right out of n, which
keeps an honest width at 0 and 1 and covers well at every n (Brown, Cai and DasGupta 2001, "Interval Estimation for a
Binomial Proportion", Statistical Science 16(2)). For a difference of two accuracies see Agresti and Min 2005,
Biometrics 61(2). Where all answers are right, or all wrong, the draw is from Beta(n, 1) or Beta(1, n) instead, as Brown
et al. modify it in their section 4.1.1: its limit is the exact one of Clopper and Pearson, (α/2)^(1/n). Jeffreys' is
nearer to the score, and 78 right of 78 would pass a limit of 3 points in 9 of 100 models whose true gap is that.

**Groups.** Images of one patient, one scene or one camera are right and wrong together, and counting them singly gives
too narrow an interval. With groups the draw is the Bayesian bootstrap (Rubin 1981, Annals of Statistics 9(1)) over
whole groups: group g has the weight w_g ~ Gamma(1), and

    accuracy* = (Σ w_g k_g + u m) / (Σ w_g n_g + (u + v) m),    u, v ~ Gamma(½)

where m is the mean group size: two half groups, one all right and one all wrong, are Jeffreys' prior. With groups of
one image this is exactly Beta(k + ½, n − k + ½), so one path serves both. Where all answers are alike, the prior is one
whole group of the other kind: v ~ Gamma(1) and no u, or the reverse. Groups with equal (k_g, n_g) are drawn
together, since a sum of c Gamma(1) is Gamma(c).

**Cross-validation.** Every image is answered by the one model of K that has not seen it, and by the K − 1 that have.
The gap is then a mean of differences d = t − h of the same image (t the share of right answers of the models that saw
it, h 1 or 0), which vary far less than two separate samples: gap* = (Σ w_g Σ d + (u − v) m) / (Σ w_g n_g + (u + v) m).
The models of the folds share most of their training images, so no estimate of the variance is unbiased (Bengio and
Grandvalet 2004, JMLR 5); for stable training the plain one is right in the limit (Bayle, Bayle, Janson and Mackey 2020,
"Cross-validation confidence intervals for test error"). For small data the deviations of all draws are multiplied by
`FOLD_INFLATION`, chosen by simulation (bench/RESULTS.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK_VALUES = 4_000_000
"""Number of Gamma draws in memory at once (32 MB)."""
FOLD_INFLATION = 1.2
"""Factor on the width of intervals from a cross-validation, for the correlation of its models."""
_HALVES = (0.5, 0.5)
MAX_IMAGES = 10**9
"""Largest number of test images that is considered. Nobody has more, and the interval of so many is no wider than
rounding."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Figure with its two-sided interval; `low` ≤ `value` ≤ `high`."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Accuracy measured on a set of images, with posterior draws of the accuracy on other images like them."""

    value: float
    """Share of right answers, a fraction."""
    num_images: int
    draws: NDArray[np.float64]
    """Draws from the smoothed bootstrap, (num_resamples,)."""

    def interval(self, confidence_level: float = 0.95) -> Interval:
        """Return the interval of the accuracy, as fractions."""
        return _interval(self.value, self.draws, confidence_level)


def measure(
    correct: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    groups: NDArray[np.int64] | None = None,
    num_resamples: int = 10_000,
    inflation: float = 1.0,
) -> Accuracy:
    """Compute the accuracy over images and its smoothed bootstrap (see the module's text).

    Args:
        correct: (n,) True where the answer is right.
        rng: the source of the draws.
        groups: (n,) the group of each image; None: each image stands alone.
        num_resamples: draws to make.
        inflation: factor on the deviation of the draws from the accuracy.

    Raises:
        ValueError: no images.
    """
    if len(correct) == 0:
        raise ValueError("no images to measure an accuracy on")
    value = float(correct.mean())
    # Shapes of the Gamma draws of the prior's right and wrong group.
    prior = {0.0: (1.0, 0.0), 1.0: (0.0, 1.0)}.get(value, _HALVES)
    draws = _draws(correct, groups, rng, num_resamples, lowest=0, prior=prior)
    return Accuracy(value, len(correct), np.clip(value + (draws - value) * inflation, 0, 1))


def paired_gap(
    trained: NDArray[np.float64],
    held_out: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    groups: NDArray[np.int64] | None = None,
    num_resamples: int = 10_000,
    confidence_level: float = 0.95,
) -> Interval:
    """Compute the gap of a cross-validation in percentage points, from two answers for each image.

    Args:
        trained: (n,) the share of right answers of the models that have seen the image.
        held_out: (n,) True where the model that has not seen it is right.
        rng: the source of the draws.
        groups: (n,) the group of each image; None: each image stands alone.
        num_resamples: draws to make.
        confidence_level: confidence level of the interval.
    """
    differences = trained - held_out
    value = float(differences.mean())
    draws = _draws(differences, groups, rng, num_resamples, lowest=-1)
    return _interval(100 * value, 100 * (value + (draws - value) * FOLD_INFLATION), confidence_level)


def _draws(
    values: NDArray[Any],
    groups: NDArray[np.int64] | None,
    rng: np.random.Generator,
    num_resamples: int,
    *,
    lowest: int,
    prior: tuple[float, float] = _HALVES,
) -> NDArray[np.float64]:
    """Draw means of values (n,) between `lowest` and 1 by the smoothed Bayesian bootstrap, (num_resamples,). `prior`:
    shapes of a group of 1 and of one of `lowest`."""
    rights, sizes = _per_group(values, groups)
    # Groups with equal (right, images) are drawn as one Gamma(count). Without groups there are two kinds at most, right
    # and wrong, so a draw costs the same for a hundred images and for a million.
    kinds, counts = np.unique(np.stack([rights, sizes], axis=1), axis=0, return_counts=True)  # (U, 2), (U,)
    mean_size = sizes.mean()
    draws = np.empty(num_resamples)
    chunk = max(1, CHUNK_VALUES // (len(kinds) + 2))  # a weight for each kind, and the two of the prior
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        weights = rng.gamma(counts, size=(size, len(counts)))  # (size, U)
        # The prior's groups have the mean size: groups of ten images with a prior of one image would give an
        # interval that is too narrow at an accuracy of 0 or 1.
        drawn = rng.gamma(prior, size=(size, 2)) * mean_size  # all 1, all `lowest`
        added = np.stack([drawn @ [1.0, lowest], drawn.sum(axis=1)], axis=1)
        totals = weights @ kinds + added  # (size, 2): sum of the values, images
        draws[start : start + size] = totals[:, 0] / totals[:, 1]
    return draws


def gap(train: Accuracy, held_out: Accuracy, confidence_level: float = 0.95) -> Interval:
    """Compute the gap in percentage points between two accuracies with equally many draws; positive: train is better.

    Both sides are treated as samples, so a small sample of the training split widens the interval.
    """
    points = (train.value - held_out.value) * 100
    return _interval(points, (train.draws - held_out.draws) * 100, confidence_level)


def jeffreys_interval(num_right: float, num_images: float, confidence_level: float = 0.95) -> Interval:
    """Compute the equal-tailed Jeffreys interval of a proportion, modified at 0 and 1, without draws; the counts may be
    fractions."""
    from scipy.special import betaincinv  # takes 0.25 s; the gate imports this module and measures nothing

    tail = (1 - confidence_level) / 2
    low, high = betaincinv(num_right + 0.5, num_images - num_right + 0.5, [tail, 1 - tail])
    value = num_right / num_images
    if value == 0:
        return Interval(0, 0, 1 - tail ** (1 / num_images))
    if value == 1:
        return Interval(1, tail ** (1 / num_images), 1)
    # Near 0 and 1 the posterior does not reach the value itself; Brown et al. widen the interval to it.
    return Interval(value, min(float(low), value), max(float(high), value))


def images_to_decide(
    test: Interval,
    num_test_images: int,
    distance: float,
    *,
    upwards: bool,
    fixed_width: float = 0.0,
    confidence_level: float = 0.95,
) -> int | None:
    """Estimate the number of test images that would decide a verdict, if every accuracy stays as it is.

    The half widths of both sides are squared and added (Newcombe 1998, Statistics in Medicine 17(8), method 10). The
    half width of train stays. That of test shrinks like the Jeffreys interval of the same accuracy, with the number of
    images divided by the design effect of the groups.

    Args:
        test: the test accuracy's interval, as fractions.
        num_test_images: number of images behind it.
        distance: distance from the judged figure to its limit, as a fraction. The verdict is decided once the half
            width of the interval is no larger.
        upwards: True if the limit lies on the side of a higher test accuracy.
        fixed_width: half width of train, which more test images do not change, as a fraction.
        confidence_level: confidence level of the intervals.

    Returns:
        The least number of test images, or None when no number up to a thousand million would decide.
    """
    if not distance > fixed_width:
        return None
    needed = math.sqrt(distance**2 - fixed_width**2)
    # The measured interval against that of as many images without groups: images of one patient or scene are right and
    # wrong together and count for less (the design effect of survey sampling).
    alone = jeffreys_interval(test.value * num_test_images, num_test_images, confidence_level)
    inflation = max(1.0, (test.high - test.low) / (alone.high - alone.low)) ** 2

    def half_width(num_images: int) -> float:
        size = num_images / inflation
        interval = jeffreys_interval(test.value * size, size, confidence_level)
        return interval.high - test.value if upwards else test.value - interval.low

    if half_width(MAX_IMAGES) > needed:
        return None
    # Bisection, at most 30 rounds. The half width falls as the number of images grows, and the images at hand are
    # known to be too few.
    enough, too_few = MAX_IMAGES, num_test_images
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        enough, too_few = (middle, too_few) if half_width(middle) <= needed else (enough, middle)
    return enough


def _per_group(
    values: NDArray[Any], groups: NDArray[np.int64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum the values, and count the images, of each group, (G,) each."""
    if groups is None:
        return values.astype(np.float64), np.ones(len(values))
    # Numbered anew from 0 without holes: `bincount` makes an entry for every number up to the largest.
    members = np.unique(groups, return_inverse=True)[1]
    return np.bincount(members, weights=values).astype(np.float64), np.bincount(members).astype(np.float64)


def _interval(value: float, draws: NDArray[np.float64], confidence_level: float) -> Interval:
    """Compute the equal-tailed interval of draws (num_resamples,), widened to `value` where it would lie outside."""
    tail = (1 - confidence_level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value, min(float(low), value), max(float(high), value))
