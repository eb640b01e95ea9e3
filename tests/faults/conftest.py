"""The run that nobody disturbed, by which the others are judged, and the table of all faults at the end."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from gapgate.process.child_server import free_port
from tests.components.conftest import home  # noqa: F401
from tests.faults.faulty_server import Proxy, proxy
from tests.faults.kills import durations
from tests.faults.settings import SEED
from tests.faults.workspaces import RUN, FaultWorkspace
from tests.serving.registry_server import RegistryServer


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """A run whose steps nobody disturbed."""

    away: FaultWorkspace
    """As the run has left it, whose tracking server did not answer: nothing is sent or registered."""
    workspace: FaultWorkspace
    """After `gapgate sync`, which sent all to the workspace's own store."""
    run: Path
    digests: dict[str, str]
    durations: dict[str, float]
    """Phase → seconds."""


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Undisturbed:
    """One run for all tests, whichever process they are in; that its server is away saves another run for the faults of
    servers."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "undisturbed"
    away, workspace = FaultWorkspace(place / "away" / "user"), FaultWorkspace(place / "synced" / "user")
    with FileLock(place.with_suffix(".lock")):
        if not place.exists():
            workspace.folder.parent.mkdir(parents=True)
            away.folder.parent.mkdir()
            _run_without_server(away.make(empty_store))
            synced = away.copy(workspace.folder.parent).gapgate("sync")
            assert synced.returncode == 0, synced.stdout + synced.stderr
    (run,) = workspace.runs()
    began_at = float((place / "away" / "began_at").read_text())
    return Undisturbed(away, workspace, run, workspace.digests(run), durations(run, began_at))


def _run_without_server(workspace: FaultWorkspace) -> None:
    (workspace.folder.parent / "began_at").write_text(str(time.time()))
    done = workspace.gapgate(*RUN, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "gapgate sync" in done.stdout
    assert "gate: pass" in done.stdout


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Proxy]:
    """A proxy before a real MLflow server."""
    server = RegistryServer(tmp_path_factory.mktemp("server"))
    try:
        server.start()
        with proxy(server.url) as found:
            yield found
    finally:
        server.stop()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many faults of each kind there were, and how many tests with one failed."""
    tried, broken = Counter[str](), Counter[str]()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            counts = Counter[str]()
            for name, value in report.user_properties:
                if name == "faults":
                    kind, number = value if isinstance(value, (list, tuple)) else (value, 1)
                    counts[kind] += number
            tried.update(counts)
            if outcome == "failed":
                broken.update(set(counts))
    if not tried:
        return
    terminalreporter.section(f"faults, GAPGATE_FAULTS_SEED={SEED}")
    terminalreporter.write_line("| fault | tried | tests that failed |\n|---|---|---|")
    for kind in sorted(tried):
        terminalreporter.write_line(f"| {kind} | {tried[kind]} | {broken[kind]} |")
