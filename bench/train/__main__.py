"""Training throughput on the CPU against Keras and against plain PyTorch, measured side by side.

    python -m bench.train --data "$GAPGATE_TEST_DATA/fashion-mnist"

The tutorial CNN on Fashion-MNIST: conv 32 3×3 same, pool, conv 64 3×3 same, pool, dense 128, dense 10; batch 128,
Adam. 25.0 MFLOP an image, forward and backward. Every contestant has the same processors and a process of its own,
has warmed up, and is stopped while another one is measured. Rounds alternate; a ratio is the median over the rounds of
ours over the other's in the same round, so that a machine whose load changes slowly slows both sides of it.
"""

from __future__ import annotations

import statistics
import sys
from contextlib import ExitStack
from pathlib import Path

import torch

from bench.environments import keras_python
from bench.train.contestant import Contestant, alternate, median_ratio
from bench.train.options import make_parser, prepare
from gapgate.training.device import bfloat16_instructions

MFLOP_AN_IMAGE = 25.0


def main(argv: list[str] | None = None) -> int:
    """Measure both rows, plain and augmented, and print them."""
    parser = make_parser(__doc__)
    args = parser.parse_args(argv)
    inputs = prepare(parser, args)
    print(f"{args.threads} threads, {args.rounds} rounds of {args.images:,} images; medians, [smallest, largest]")
    for row in ("plain", "augmented"):
        _report(row, _measure(row, inputs, args.threads, args.images, args.rounds))
    return 0


def _measure(row: str, inputs: Path, threads: int, num_images: int, rounds: int) -> dict[str, list[float]]:
    """Name of the contestant → its figure in each round."""
    commands = {
        "gapgate": (sys.executable, "gapgate_loop", inputs, threads, row, "float32"),
        "keras": (keras_python(), "keras_fit", inputs, threads, row),
        "dataloader": (sys.executable, "dataloader_loop", inputs, threads, row, num_images),
        "gemm": (sys.executable, "gemm", threads),
    }
    if bfloat16_instructions(torch.device("cpu")):
        commands["bfloat16"] = (sys.executable, "gapgate_loop", inputs, threads, row, "bfloat16")
    with ExitStack() as stack:
        contestants = {name: stack.enter_context(Contestant(*command)) for name, command in commands.items()}
        notes = "; ".join(f"{name}: {each.note}" for name, each in contestants.items() if each.note)
        print(f"\n{row} ({notes})")
        return alternate(contestants, rounds)


def _report(row: str, figures: dict[str, list[float]]) -> None:
    for name, values in figures.items():
        unit = "GFLOP/s" if name == "gemm" else "images/s"
        print(f"  {name:11}{statistics.median(values):7,.0f} {unit} [{min(values):,.0f}, {max(values):,.0f}]")
    suffix = "" if row == "plain" else f" {row}"
    for rival in ("keras", "dataloader"):
        print(f"ratio {rival}{suffix}: {median_ratio(figures['gapgate'], figures[rival]):.2f}")
    instructions = bfloat16_instructions(torch.device("cpu"))
    if instructions:
        ratio = median_ratio(figures["bfloat16"], figures["gapgate"])
        print(f"ratio bfloat16 ({instructions}) to float32{suffix}: {ratio:.2f}")
    else:
        print(f"ratio bfloat16 to float32{suffix}: this processor has no bfloat16")
    gflops = [rate * MFLOP_AN_IMAGE / 1e3 for rate in figures["gapgate"]]
    print(f"share of gemm{suffix}: {median_ratio(gflops, figures['gemm']):.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
