"""Coverage and power of the evidence on small data: a test split beside five folds, on real pixels.

    python -m bench.evidence [--rounds 200] [--data FOLDER]

Each round draws n images of a pool (digits, and Fashion-MNIST averaged to 14 × 14 pixels), splits them as the pipeline
does, trains multinomial logistic regression (as the last layer of `frozen` is), and measures accuracy and gap with the
pipeline's own intervals. The truth is the accuracy of the model that would be served on all images outside of the
draw. Printed are the share of 95 % intervals of the accuracy that hold the truth, and of simulated answers (images that
are right alone, or right only where they were seen) how often the default gate passes.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from bench import fashion_mnist
from gapgate.evidence import gap
from gapgate.settings.sections import GateSettings

SIZES = (100, 200, 400, 800)
FOLDS = 5
TEST_SHARE = 0.25
RESAMPLES = 2_000
POOL_SIZE = 10_000
PENALTY = 1e-3

Pool = tuple[NDArray[np.float64], NDArray[np.int32]]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="draws for each figure (default: 200)")
    fashion_mnist.add_option(parser)
    args = parser.parse_args()
    fashion_mnist.require(parser, args.data, "train")
    for name, pool in _pools(args.data).items():
        for size in SIZES:
            held = {method: _coverage(pool, size, args.rounds, measure) for method, measure in METHODS.items()}
            shown = "  ".join(f"{method} {100 * share:.1f} %" for method, share in held.items())
            print(f"{name:<14} n={size:<5} coverage {shown}", flush=True)
    for size in SIZES:
        for said, new in (("98 %, no gap", 0.98), ("98 %, gap of 5", 0.93)):
            shares = {method: _passes(size, 0.98, new, 20 * args.rounds, method) for method in METHODS}
            shown = "  ".join(f"{method} {100 * share:.1f} %" for method, share in shares.items())
            print(f"{said:<14} n={size:<5} passes   {shown}", flush=True)


def _pools(folder: Path) -> dict[str, Pool]:
    digits = load_digits()
    images = fashion_mnist.images(folder, "train", POOL_SIZE)
    blocks = images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(len(images), -1)
    labels = fashion_mnist.labels(folder, "train", POOL_SIZE).astype(np.int32)
    return {"digits": (digits.data / 16, digits.target.astype(np.int32)), "fashion-mnist": (blocks / 255, labels)}


def _right(pool: Pool, train: NDArray[np.int64], asked: NDArray[np.int64]) -> NDArray[np.bool_]:
    features, labels = pool
    # One penalty: the choice among several takes most of the time and moves the accuracy by less than a point.
    solver = LogisticRegression(C=1 / (PENALTY * len(train)), tol=1e-3, max_iter=300)
    return solver.fit(features[train], labels[train]).predict(features[asked]) == labels[asked]


def _holdout(pool: Pool, drawn: NDArray[np.int64], rng: np.random.Generator) -> tuple[gap.Interval, NDArray[np.int64]]:
    """Return the accuracy's interval and the images that the served model is trained on."""
    cut = round(TEST_SHARE * len(drawn))
    test, train = drawn[:cut], drawn[cut:]
    return gap.measure(_right(pool, train, test), rng, num_resamples=RESAMPLES).interval(), train


def _folds(pool: Pool, drawn: NDArray[np.int64], rng: np.random.Generator) -> tuple[gap.Interval, NDArray[np.int64]]:
    right = np.empty(len(drawn), bool)
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=int(rng.integers(2**31)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer images than folds
        for train, held_out in splitter.split(drawn, pool[1][drawn]):
            right[held_out] = _right(pool, drawn[train], drawn[held_out])
    measured = gap.measure(right, rng, num_resamples=RESAMPLES, inflation=gap.FOLD_INFLATION)
    return measured.interval(), drawn


METHODS: dict[str, Callable[[Pool, NDArray[np.int64], np.random.Generator], tuple[gap.Interval, NDArray[np.int64]]]] = {
    "holdout": _holdout,
    "5 folds": _folds,
}


def _coverage(
    pool: Pool, size: int, rounds: int, measure: Callable[..., tuple[gap.Interval, NDArray[np.int64]]]
) -> float:
    """Share of rounds whose interval holds the served model's accuracy on the rest of the pool."""
    held = 0
    for seed in range(rounds):
        rng = np.random.default_rng((size, seed))
        order = rng.permutation(len(pool[1]))
        drawn, rest = order[:size], order[size:]
        interval, train = measure(pool, drawn, rng)
        truth = _right(pool, train, rest).mean()
        held += interval.low <= truth <= interval.high
    return held / rounds


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
