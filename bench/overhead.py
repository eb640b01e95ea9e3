"""Overhead of the pipeline: `gapgate run` on digits over the same eight steps called in one process.

    python -m bench.overhead [--rounds 3]

Both do all the work: the same artifacts, an MLflow run, a registered version and a Bento, each in a workspace of its
own whose tracking store was made beforehand. Rounds alternate; the ratio is of medians. Target: at most 1.3.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from bench.environments import ROOT


def main(argv: list[str] | None = None) -> int:
    """Time both in turn, and print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args(argv).rounds
    params = str(ROOT / "params.yaml")
    gapgate = [sys.executable, "-c", "from cli import main; main()"]
    commands = {
        "gapgate run": [*gapgate, "run", "digits", "--params", params],
        "one process": [sys.executable, "-m", "bench.one_process", params],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds):
        for name, command in commands.items():
            seconds[name].append(timed(command))
            print(f"round {number + 1}: {name:12} {seconds[name][-1]:6.1f} s", flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(json.dumps({name: round(value, 2) for name, value in medians.items()}))
    print(f"ratio overhead: {medians['gapgate run'] / medians['one process']:.2f} (target: at most 1.3)")
    return 0


def timed(command: list[str]) -> float:
    """Wall seconds of a command in a fresh workspace whose tracking store is already there."""
    with tempfile.TemporaryDirectory() as workspace:
        environment = os.environ | {"GAPGATE_HOME": f"{workspace}/home", "PYTHONPATH": str(ROOT)}
        make_store = "from components.platform.tracking.mlflow_client import client; client().search_experiments()"
        subprocess.run([sys.executable, "-c", make_store], cwd=workspace, env=environment, check=True)
        began = time.perf_counter()
        done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{done.stdout}\n{done.stderr}")
        return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
