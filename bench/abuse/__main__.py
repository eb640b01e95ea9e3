"""Promises of the REST service, put to the test: a line for each.

    gapgate run ...                      # makes a .bento; the newest is taken
    python -m bench.abuse [--bento FILE] [--only mutants,bombs] [--quick]

Each line says what was done, the figure, its limit, and `ok` or `MISSED`. Client and server share the machine. Linux.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.abuse import input_checks as inputs
from bench.abuse import load_checks as load
from bench.abuse.table import HEAD, Line
from bench.newest_bento import newest_bento

QUICK = 20
"""The divisor of the numbers of requests under `--quick`."""
CHECKS: dict[str, Callable[[Path, int], Iterator[Line]]] = {
    check.__name__: check
    for check in (
        inputs.mutants,
        inputs.bombs,
        inputs.floods,
        inputs.budget,
        inputs.large_body,
        inputs.failures,
        inputs.urls,
        inputs.paths,
        inputs.changed_package,
        inputs.protocol,
        load.sigterm,
        load.killed,
        load.overload,
        load.slow_clients,
        load.memory,
        load.client_gone,
    )
}
"""Name → a check, which gets the Bento and by how much to do less."""


def main(argv: list[str] | None = None) -> int:
    """Run the chosen checks; 1 where a promise was not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bento", type=Path, help="a .bento file; the newest run's by default")
    parser.add_argument("--only", default="", help=f"some of {','.join(CHECKS)}")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} times fewer requests")
    arguments = parser.parse_args(argv)
    bento = arguments.bento or newest_bento("--bento")
    chosen = [name for name in arguments.only.split(",") if name] or list(CHECKS)
    missed = 0
    print(HEAD)
    for name in chosen:
        for line in CHECKS[name](bento, QUICK if arguments.quick else 1):
            missed += not line.is_kept
            print(line, flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
