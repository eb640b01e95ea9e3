"""Cost of recipes/fashion-gate.yaml against the tutorial's fashion-cnn in Keras: seconds of a whole training.

    python -m bench.recipes --data "$GAPGATE_TEST_DATA/fashion-mnist"

The tutorial trains on all 60,000 images at batch 32 for 10 epochs; the recipe on the nine tenths that are not held out,
and looks at the held-out tenth after each epoch. Both have the same processors, a process each, and are stopped while
the other is measured. Rounds alternate; the ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path

from bench.environments import ROOT, keras_python
from bench.train.contestant import Contestant, alternate, median_ratio
from bench.train.options import make_parser, prepare
from gapgate.settings import load

TUTORIAL_EPOCHS, TUTORIAL_IMAGES = 10, 60_000
RECIPE_IMAGES = 54_000


def main(argv: list[str] | None = None) -> int:
    """Measure both trainings and print their times and the ratio."""
    parser = make_parser(__doc__)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/fashion-gate.yaml")
    clock_help = "what passes, or what the processors did"
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help=clock_help)
    args = parser.parse_args(argv)
    inputs = prepare(parser, args)
    epochs = load(args.recipe).train.epochs
    rates = _measure(inputs, args)
    keras_s = [TUTORIAL_EPOCHS * TUTORIAL_IMAGES / rate for rate in rates["keras"]]
    ours_s = [epochs * RECIPE_IMAGES / rate for rate in rates["recipe"]]
    print(f"{args.threads} threads, {args.rounds} rounds of {args.images:,} images; medians, {args.clock} clock")
    for name, seconds in (
        (f"keras, batch 32, {TUTORIAL_EPOCHS} epochs", keras_s),
        (f"recipe, {epochs} epochs", ours_s),
    ):
        print(f"  {name:27}{statistics.median(seconds):5.0f} s [{min(seconds):.0f}, {max(seconds):.0f}]")
    print(f"ratio recipe to keras: {median_ratio(ours_s, keras_s):.2f}")
    return 0


def _measure(inputs: Path, args: argparse.Namespace) -> dict[str, list[float]]:
    """Images/s in each round, of the tutorial in Keras and of the recipe."""
    tutorial = (keras_python(), "keras_fit", inputs, args.threads, "plain", 32, args.clock)
    recipe = (sys.executable, "recipe_loop", inputs, args.threads, args.recipe, args.clock)
    with ExitStack() as stack:
        keras, ours = (stack.enter_context(Contestant(*command)) for command in (tutorial, recipe))
        return alternate({"keras": keras, "recipe": ours}, args.rounds)


if __name__ == "__main__":
    sys.exit(main())
