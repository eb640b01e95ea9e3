"""The run that nobody disturbed, by which the others are judged, and the table of all faults at the end."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.kills import durations
from tests.faults.settings import SEED
from tests.faults.workspaces import RUN, FaultWorkspace


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """A run that nobody disturbed."""

    workspace: FaultWorkspace
    run: Path
    digests: dict[str, str]
    durations: dict[str, float]
    """Phase → seconds."""


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Undisturbed:
    """A run that nobody disturbed."""
    workspace = FaultWorkspace(tmp_path_factory.mktemp("undisturbed") / "user").make(empty_store)
    began_at = time.time()
    done = workspace.gapgate(*RUN)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = workspace.runs()
    return Undisturbed(workspace, run, workspace.digests(run), durations(run, began_at, time.time()))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many faults of each kind there were, and how many broke a promise."""
    tried, broken = Counter[str](), Counter[str]()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            kinds = [value for name, value in report.user_properties if name == "faults"]
            tried.update(kinds)
            if outcome == "failed":
                broken.update(set(kinds))
    if not tried:
        return
    terminalreporter.section(f"faults, GAPGATE_FAULTS_SEED={SEED}")
    terminalreporter.write_line("| fault | tried | tests that failed |\n|---|---|---|")
    for kind in sorted(tried):
        terminalreporter.write_line(f"| {kind} | {tried[kind]} | {broken[kind]} |")
