"""The bench's side of a comparison: contestants in processes of their own, of which only the measured one may run."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.environments import ROOT


class Contestant:
    """A worker module of this folder, stopped by SIGSTOP between its rounds."""

    def __init__(self, python: Path | str, module: str, *arguments: object) -> None:
        """Start `python -m bench.train.MODULE`, and return when it has warmed up."""
        # Run with -m and not by its path: a script's own folder would lead sys.path, before the rival's packages.
        self._process = subprocess.Popen(
            [str(python), "-m", f"bench.train.{module}", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if module == "keras_fit" else None,  # TensorFlow writes pages of notes there
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        )
        try:
            self.note = self._answer().removeprefix("ready").strip()
        except BaseException:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    def measure(self) -> float:
        """One round; the others are stopped."""
        self._signal(signal.SIGCONT)
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        figure = float(self._answer())
        self._signal(signal.SIGSTOP)
        return figure

    def close(self) -> None:
        """End the process and its children."""
        if self._process.poll() is None:
            self._signal(signal.SIGKILL)  # SIGTERM would wait until the stopped process runs again
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline().strip():
            return line
        said = self._process.stderr.read()[-2000:] if self._process.stderr else ""
        raise SystemExit(f"{self._process.args} ended without an answer\n{said}")

    def _signal(self, number: int) -> None:
        # To the whole group: idle thread pools and loader processes that spin would slow the one that is measured.
        os.killpg(self._process.pid, number)

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def alternate(contestants: Mapping[str, Contestant], rounds: int) -> dict[str, list[float]]:
    """Measure each contestant once a round: name → its figure in each round."""
    figures: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            figures[name].append(contestant.measure())
    return figures


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over the rounds of our figure over theirs in the same round."""
    return statistics.median(our / their for our, their in zip(ours, theirs, strict=True))
