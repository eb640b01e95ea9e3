"""Training throughput on the CPU against Keras and against plain PyTorch, measured side by side.

    python -m bench.train --data "$GAPGATE_TEST_DATA/fashion-mnist"

The tutorial CNN on Fashion-MNIST: conv 32 3×3 same, pool, conv 64 3×3 same, pool, dense 128, dense 10; batch 128,
Adam. 25.0 MFLOP an image, forward and backward. Every contestant has the same processors and a process of its own,
has warmed up, and is stopped while another one is measured. Rounds alternate; a ratio is the median over the rounds of
ours over the other's in the same round, so that a machine whose load changes slowly slows both sides of it.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path

from bench.train.contestant import OUT, Contestant, keras_python
from bench.train.inputs import write_inputs
from gapgate.cpu_quota import available_cpus

MFLOP_AN_IMAGE = 25.0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tests_data = Path(os.environ.get("GAPGATE_TEST_DATA", "."))
    parser.add_argument("--data", type=Path, default=tests_data / "fashion-mnist", help="folder of gzipped IDX files")
    parser.add_argument("--threads", type=int, default=available_cpus(), help="processors for each contestant")
    parser.add_argument("--images", type=int, default=6400, help="images in a round")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the contestants end too
    if not list(args.data.glob("train-images-idx3-ubyte.gz")):
        parser.error(f"{args.data} has no train-images-idx3-ubyte.gz; name the folder with --data")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    inputs = OUT / "train"
    write_inputs(args.data, inputs, args.images)
    print(f"{args.threads} threads, {args.rounds} rounds of {args.images:,} images; medians, [smallest, largest]")
    for row in ("plain", "augmented"):
        _report(row, _measure(row, inputs, args.threads, args.images, args.rounds))
    return 0


def _measure(row: str, inputs: Path, threads: int, num_images: int, rounds: int) -> dict[str, list[float]]:
    """Name of the contestant → its figure in each round."""
    python = sys.executable
    with ExitStack() as stack:
        contestants = {
            "gapgate": stack.enter_context(Contestant(python, "gapgate_loop", inputs, threads, row)),
            "keras": stack.enter_context(Contestant(keras_python(), "keras_fit", inputs, threads, row)),
            "dataloader": stack.enter_context(Contestant(python, "dataloader_loop", inputs, threads, row, num_images)),
            "gemm": stack.enter_context(Contestant(python, "gemm", threads)),
        }
        notes = "; ".join(f"{name}: {each.note}" for name, each in contestants.items() if each.note)
        print(f"\n{row} ({notes})")
        figures: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(rounds):
            for name, contestant in contestants.items():
                figures[name].append(contestant.measure())
    return figures


def _report(row: str, figures: dict[str, list[float]]) -> None:
    for name, values in figures.items():
        unit = "GFLOP/s" if name == "gemm" else "images/s"
        print(f"  {name:11}{statistics.median(values):7,.0f} {unit} [{min(values):,.0f}, {max(values):,.0f}]")
    suffix = "" if row == "plain" else f" {row}"
    for rival in ("keras", "dataloader"):
        print(f"ratio {rival}{suffix}: {_median_ratio(figures['gapgate'], figures[rival]):.2f}")
    gflops = [rate * MFLOP_AN_IMAGE / 1e3 for rate in figures["gapgate"]]
    print(f"share of gemm{suffix}: {_median_ratio(gflops, figures['gemm']):.2f}", flush=True)


def _median_ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(our / their for our, their in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    sys.exit(main())
