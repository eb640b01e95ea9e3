"""What recipes/fashion-gate.yaml costs against the tutorial's fashion-cnn in Keras: seconds of a whole training.

    python -m bench.recipes --data "$GAPGATE_TEST_DATA/fashion-mnist"

The tutorial trains on all 60,000 images at batch 32 for 10 epochs; the recipe on the nine tenths that are not held out,
and looks at the held-out tenth after each epoch. Both have the same processors, a process each, and are stopped while
the other is measured. Rounds alternate; the ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path

from bench.train.contestant import OUT, ROOT, Contestant, keras_python
from bench.train.inputs import write_inputs
from gapgate.cpu_quota import available_cpus
from gapgate.settings.sections import load

TUTORIAL_EPOCHS, TUTORIAL_IMAGES = 10, 60_000
RECIPE_IMAGES = 54_000


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tests_data = Path(os.environ.get("GAPGATE_TEST_DATA", "."))
    parser.add_argument("--data", type=Path, default=tests_data / "fashion-mnist", help="folder of gzipped IDX files")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/fashion-gate.yaml")
    parser.add_argument("--threads", type=int, default=available_cpus(), help="processors for each contestant")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="what passes, or what the processors did"
    )
    parser.add_argument("--images", type=int, default=6400, help="images in a round")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the contestants end too
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    inputs = OUT / "train"
    write_inputs(args.data, inputs, args.images)
    epochs = load(args.recipe).train.epochs
    tutorial, recipe = _measure(inputs, args)
    keras_s = [TUTORIAL_EPOCHS * TUTORIAL_IMAGES / rate for rate in tutorial]
    ours_s = [epochs * RECIPE_IMAGES / rate for rate in recipe]
    ratio = statistics.median(our / their for our, their in zip(ours_s, keras_s, strict=True))
    print(f"{args.threads} threads, {args.rounds} rounds of {args.images:,} images; medians, {args.clock} clock")
    for name, seconds in (
        (f"keras, batch 32, {TUTORIAL_EPOCHS} epochs", keras_s),
        (f"recipe, {epochs} epochs", ours_s),
    ):
        print(f"  {name:27}{statistics.median(seconds):5.0f} s [{min(seconds):.0f}, {max(seconds):.0f}]")
    print(f"ratio recipe to keras: {ratio:.2f}")
    return 0


def _measure(inputs: Path, args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Images for each second in each round: the tutorial's, the recipe's."""
    with ExitStack() as stack:
        tutorial = ("keras_fit", inputs, args.threads, "plain", 32, args.clock)
        keras = stack.enter_context(Contestant(keras_python(), *tutorial))
        ours = ("recipe_loop", inputs, args.threads, args.recipe, args.clock)
        recipe = stack.enter_context(Contestant(sys.executable, *ours))
        rounds = [(keras.measure(), recipe.measure()) for _ in range(args.rounds)]
    return [one for one, _ in rounds], [other for _, other in rounds]


if __name__ == "__main__":
    sys.exit(main())
