"""Options of the training benchmarks, and what they set up before the first contestant starts."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from bench import fashion_mnist
from bench.environments import OUT
from bench.train.inputs import write_inputs
from gapgate.process.cpu_quota import available_cpus


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with `--data`, `--threads`, `--images` and `--rounds`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    fashion_mnist.add_option(parser)
    parser.add_argument("--threads", type=int, default=available_cpus(), help="processors for each contestant")
    parser.add_argument("--images", type=int, default=6400, help="images in a round")
    parser.add_argument("--rounds", type=int, default=7)
    return parser


def prepare(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Path:
    """Bind this process and its children to `--threads` processors, and write the inputs into the returned folder."""
    fashion_mnist.require(parser, args.data, "train")
    # Python ends at SIGTERM without unwinding; as an exception it closes the contestants, which may be stopped.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    inputs = OUT / "train"
    write_inputs(args.data, inputs, args.images)
    return inputs
