"""A disk that is full at the very end of a run."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.terminal.console import Console
from cli.terminal.progress import TerminalDisplay
from components.platform.run_context import DRAINED_VARIABLE, PARENT_VARIABLE
from gapgate.artifacts import read_json
from gapgate.errors import storage_errors
from gapgate.settings.sections import Settings
from pipelines.local import runner
from tests.mounts import mounted


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "disk", "size=2m")


@pytest.mark.parametrize("fails", [True, False])
def test_a_full_disk_at_the_end_of_a_run_leaves_its_result(
    home: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """The steps are a process that takes every byte; whether KFP then meets the full disk itself does not matter."""

    def fill(*arguments: Any) -> str:
        with (disk / "full").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(512))
            except OSError:
                with storage_errors(disk):
                    if fails:
                        raise
        return ""

    monkeypatch.setattr(runner, "_execute", fill)
    for name in (DRAINED_VARIABLE, PARENT_VARIABLE):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("GAPGATE_HOME", str(disk / "home"))
    result = runner.run_pipeline(Settings(), TerminalDisplay(Console(file=io.StringIO())))
    written = read_json(result.context.folder / "result.json")
    assert written["exit_code"] == (2 if fails else 1)
    assert ("the disk is full" in written["failure"]["message"]) == fails
    assert "disk is full" in result.tracking_notice
    assert [read_json(folder / "settings.json")["data"] for folder in (result.context.folder, result.context.spool)]
