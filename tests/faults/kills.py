"""SIGKILL at a random moment of a run, to all of its processes or to one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from components.catalog import STEPS
from gapgate.process.descendants import children
from tests.faults.settings import SEED
from tests.faults.workspaces import FaultWorkspace

VICTIMS = ("group", "step", "run")
"""All processes of a run; that of the step at work alone; that of `gapgate run` alone."""
PHASES = ("start", *STEPS, "end")
"""The time before the first step, each step until the next one begins, and the time after the last step."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment to kill at."""

    victim: str
    phase: str
    fraction: float
    """Share of the phase's usual time that has passed."""

    def __str__(self) -> str:
        return f"{self.victim} at {self.fraction:.0%} of {self.phase}"


def moments(num_chains: int) -> list[list[Moment]]:
    """For each chain a moment for each victim, drawn from the seed; each phase comes up about equally often."""
    drawn = random.Random(SEED)
    needed = num_chains * len(VICTIMS)
    phases = [phase for _ in range(-(-needed // len(PHASES))) for phase in drawn.sample(PHASES, len(PHASES))]
    all_of_them = iter(phases)
    return [
        [Moment(victim, next(all_of_them), drawn.random()) for victim in drawn.sample(VICTIMS, len(VICTIMS))]
        for _ in range(num_chains)
    ]


def durations(run: Path, began_at: float) -> dict[str, float]:
    """Phase → seconds that it took in a run that nobody disturbed; 1 second for what follows the last step."""
    begins = [began_at, *(_times(run, step, "started")[-1] for step in STEPS), _times(run, "package", "finished")[-1]]
    return {phase: after - begin for phase, begin, after in zip(PHASES[:-1], begins, begins[1:], strict=False)} | {
        "end": 1.0
    }


def kill(workspace: FaultWorkspace, process: subprocess.Popen[str], moment: Moment, usual: dict[str, float]) -> bool:
    """Kill at the moment; False if all had ended before it came."""
    before = {run.name for run in workspace.runs()}
    while not _has_begun(workspace, before, moment.phase):
        if process.poll() is not None:
            return False
        time.sleep(0.005)
    time.sleep(moment.fraction * usual[moment.phase])
    if moment.victim == "step":
        return _kill_step(process)
    if process.poll() is not None:
        return False
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL) if moment.victim == "group" else process.kill()
    return True


def _has_begun(workspace: FaultWorkspace, before: set[str], phase: str) -> bool:
    if phase == "start":
        return True
    fresh = next((run for run in workspace.runs() if run.name not in before), None)
    step, kind = ("package", "finished") if phase == "end" else (phase, "started")
    return fresh is not None and bool(_times(fresh, step, kind))


def _times(run: Path, step: str, kind: str) -> list[float]:
    found = []
    with suppress(FileNotFoundError):
        for line in (run / "spool" / f"{step}.jsonl").read_text().splitlines():
            with suppress(ValueError):
                found += [event["time"] for event in [json.loads(line)] if event["kind"] == kind]
    return found


def _kill_step(process: subprocess.Popen[str]) -> bool:
    """Kill the process of the step at work, or of the one that begins next; False if the run ended before."""
    while process.poll() is None:
        for pid in _descendants(process.pid):
            if _reports(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    return True
        time.sleep(0.005)
    return False


def _descendants(pid: int) -> Iterator[int]:
    """Parents before their children: those inherit the open files of a step."""
    for child in sorted(children(pid)):
        yield child
        yield from _descendants(child)


def _reports(pid: int) -> bool:
    """True if the process has the events of a step open, which it writes as long as it works."""
    for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):
            place = descriptor.readlink()
            if place.parent.name == "spool" and place.suffix == ".jsonl":
                return True
    return False
