"""Coverage and power of the evidence on small data: a test split beside five folds, on real pixels.

    python -m bench.evidence [--rounds 200] [--data FOLDER]

Each round draws n images of a pool (Fashion-MNIST averaged to 14 × 14 pixels, and digits), splits them as the pipeline
does, trains multinomial logistic regression (as the last layer of `frozen` is), and measures accuracy and gap with the
pipeline's own intervals. The truth is the accuracy, on all images outside of the draw, of the models that were
measured; draws of digits that leave too few outside are not made. The served model is trained on all images of the
folds, and is a little better than they are. Printed are the share of 95 % intervals that hold the truth, and of
simulated answers how often the default gate passes.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from bench import fashion_mnist
from gapgate.evidence.measures import gap
from gapgate.settings.sections import GateSettings

SIZES = (100, 200, 400, 800)
FOLDS = 5
TEST_SHARE = 0.25
RESAMPLES = 2_000
POOL_SIZE = 60_000
LEAST_OUTSIDE = 8
"""Images outside of a draw for each one in it: the truth is measured on them, and with fewer its own error would count
against the intervals."""
PENALTY = 1e-3

Pool = tuple[NDArray[np.float64], NDArray[np.int32]]


def main(argv: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="draws for each figure (default: 200)")
    fashion_mnist.add_option(parser)
    args = parser.parse_args(argv)
    fashion_mnist.require(parser, args.data, "train")
    for name, pool in _pools(args.data).items():
        for size in SIZES:
            if len(pool[1]) < (1 + LEAST_OUTSIDE) * size:
                continue
            for method, measure in METHODS.items():
                held, safe = _coverage(pool, size, args.rounds, measure)
                print(
                    f"{name:<14} n={size:<4} {method:<8} interval holds the truth {100 * held:.1f} %, "
                    f"lower end below the served model's accuracy {100 * safe:.1f} %",
                    flush=True,
                )
    for size in SIZES:
        for said, new in (("98 %, no gap", 0.98), ("98 %, gap of 5", 0.93)):
            for method in METHODS:
                passed = _passes(size, 0.98, new, 20 * args.rounds, method)
                print(f"{said:<14} n={size:<4} {method:<8} gate passes {100 * passed:.1f} %", flush=True)


def _pools(folder: Path) -> dict[str, Pool]:
    digits = load_digits()
    images = fashion_mnist.images(folder, "train", POOL_SIZE)
    blocks = images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(len(images), -1)
    labels = fashion_mnist.labels(folder, "train", POOL_SIZE).astype(np.int32)
    return {"fashion-mnist": (blocks / 255, labels), "digits": (digits.data / 16, digits.target.astype(np.int32))}


@dataclass(frozen=True, slots=True)
class Measured:
    """One draw's interval of the accuracy, and what it is an estimate of."""

    interval: gap.Interval
    truth: float
    """Accuracy, on the images that were not drawn, of the models that were measured: their mean for folds."""
    served: float
    """Accuracy, on the same, of the model that would be served."""


def _fitted(pool: Pool, train: NDArray[np.int64]) -> LogisticRegression:
    # One penalty: the choice among several takes most of the time and moves the accuracy by less than a point.
    return LogisticRegression(C=1 / (PENALTY * len(train)), tol=1e-3, max_iter=300).fit(pool[0][train], pool[1][train])


def _right(pool: Pool, model: LogisticRegression) -> NDArray[np.bool_]:
    """Return whether the model's answer is right, for each image of the pool, (N,)."""
    right: NDArray[np.bool_] = model.predict(pool[0]) == pool[1]
    return right


def _holdout(pool: Pool, drawn: NDArray[np.int64], rest: NDArray[np.int64], rng: np.random.Generator) -> Measured:
    cut = round(TEST_SHARE * len(drawn))
    right = _right(pool, _fitted(pool, drawn[cut:]))
    interval = gap.measure(right[drawn[:cut]], rng, num_resamples=RESAMPLES).interval()
    truth = float(right[rest].mean())
    return Measured(interval, truth, truth)


def _folds(pool: Pool, drawn: NDArray[np.int64], rest: NDArray[np.int64], rng: np.random.Generator) -> Measured:
    held_out_right, truths = np.empty(len(drawn), bool), []
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=int(rng.integers(2**31)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer images than folds
        for train, held_out in splitter.split(drawn, pool[1][drawn]):
            right = _right(pool, _fitted(pool, drawn[train]))
            held_out_right[held_out] = right[drawn[held_out]]
            truths.append(right[rest].mean())
    measured = gap.measure(held_out_right, rng, num_resamples=RESAMPLES, inflation=gap.FOLD_INFLATION)
    served = float(_right(pool, _fitted(pool, drawn))[rest].mean())
    return Measured(measured.interval(), float(np.mean(truths)), served)


METHODS: dict[str, Callable[..., Measured]] = {"holdout": _holdout, "5 folds": _folds}


def _coverage(pool: Pool, size: int, rounds: int, measure: Callable[..., Measured]) -> tuple[float, float]:
    """Share of rounds whose interval holds the truth, and of those whose lower end is not above the served model's
    accuracy."""
    held = safe = 0
    for seed in range(rounds):
        rng = np.random.default_rng((size, seed))
        order = rng.permutation(len(pool[1]))
        found = measure(pool, order[:size], order[size:], rng)
        held += found.interval.low <= found.truth <= found.interval.high
        safe += found.interval.low <= found.served
    return held / rounds, safe / rounds


def _passes(size: int, trained: float, new: float, rounds: int, method: str) -> float:
    """Share of simulated runs that pass the default gate's limit on the gap.

    An image is right for the models that have seen it with probability `trained`, and of those right ones for one that
    has not with `new / trained`: a gap-free model is right and wrong on the same images either way.
    """
    limit, passed = GateSettings().max_gap_points, 0
    for seed in range(rounds):
        rng = np.random.default_rng((size, seed, 1))
        seen = rng.random(size) < trained
        unseen = seen & (rng.random(size) < new / trained)
        if method == "holdout":
            cut = round(TEST_SHARE * size)
            sides = [gap.measure(part, rng, num_resamples=RESAMPLES) for part in (seen[cut:], unseen[:cut])]
            interval = gap.gap(*sides)
        else:
            interval = gap.paired_gap(seen.astype(float), unseen, rng, num_resamples=RESAMPLES)
        passed += interval.high <= limit
    return passed / rounds


if __name__ == "__main__":
    main()
