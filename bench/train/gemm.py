"""Single-precision matrix multiplication on this machine: GFLOP/s of 1,536-wide square matrices."""

from __future__ import annotations

import sys
import time

import torch

from bench.train.worker import serve

SIDE = 1536
_SECONDS = 1.0


def main(threads: int) -> None:
    """Multiply for a second a round; the figure is that of the fastest product."""
    torch.set_num_threads(threads)
    left, right, product = (torch.rand(SIDE, SIDE) for _ in range(3))

    def gflops() -> float:
        times = []
        started = time.perf_counter()
        while time.perf_counter() - started < _SECONDS:
            before = time.perf_counter()
            torch.mm(left, right, out=product)
            times.append(time.perf_counter() - before)
        return 2 * SIDE**3 / min(times) / 1e9  # a multiplication and an addition for each term of each sum

    gflops()
    serve(gflops)


if __name__ == "__main__":
    main(int(sys.argv[1]))
