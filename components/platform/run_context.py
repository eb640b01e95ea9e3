"""The pipeline run that a step belongs to."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from components.platform.workspace import runs_dir
from gapgate.artifacts import RUN_VARIABLE, read_json, write_json

EXPERIMENT_VARIABLE = "GAPGATE_EXPERIMENT"
DRAINED_VARIABLE = "GAPGATE_SPOOL_IS_READ"
"""Environment variable that a parent process sets when it sends the spool itself while the step works."""

_DECISION = "promotion.json"
_SCRATCH_PREFIX = "gapgate-run-"
PARENT_VARIABLE = "GAPGATE_PARENT"
"""Environment variable with the number of the process that runs the pipeline; its steps end with it."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """Pipeline run, identified by its name; its folders follow from the name."""

    name: str
    experiment: str = "gapgate"

    @classmethod
    def new(cls, experiment: str = "gapgate") -> RunContext:
        """A run with a new name: the time (UTC) and four random hexadecimal digits."""
        return cls(f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}", experiment)

    @classmethod
    def current(cls) -> RunContext | None:
        """The run that the environment names; None outside a run."""
        name = os.environ.get(RUN_VARIABLE)
        return cls(name, os.environ.get(EXPERIMENT_VARIABLE, "gapgate")) if name else None

    @property
    def folder(self) -> Path:
        """Folder of this run on this machine."""
        return runs_dir() / self.name

    @property
    def spool(self) -> Path:
        """Folder that the run's steps report to."""
        return self.folder / "spool"

    def make_scratch(self) -> str:
        """Make a folder for the temporary files of this run and its steps; the run's folder has a link to it."""
        # Not in the run's folder: the address of a socket in it may have 107 characters.
        place = Path(tempfile.gettempdir(), f"{_SCRATCH_PREFIX}{secrets.token_hex(8)}")
        self._scratch.symlink_to(place)  # first: of a process that is killed in between no folder is left
        place.mkdir(0o700)
        return str(place)

    def remove_scratch(self) -> None:
        """Remove that folder, where there is one."""
        with suppress(OSError):
            if (place := self._scratch.readlink()).name.startswith(_SCRATCH_PREFIX):
                shutil.rmtree(place, ignore_errors=True)
            self._scratch.unlink()

    @property
    def _scratch(self) -> Path:
        return self.folder / "tmp"

    @property
    def decision(self) -> dict[str, Any]:
        """The decision on the alias of the run's model, with its reason; empty before there is one."""
        found: dict[str, Any] = read_json(self.folder / _DECISION, {})
        return found

    def record_decision(self, decision: Mapping[str, Any]) -> None:
        """Keep the decision on the alias of the run's model."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / _DECISION, dict(decision))

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Mark the run as at work, for as long as the block or the process lives."""
        with FileLock(self._lock):
            yield

    def is_alive(self) -> bool:
        """True if a process is at work on the run."""
        if not self._lock.exists():  # else it would be made here
            return False
        try:
            with FileLock(self._lock, blocking=False):
                return False
        except Timeout:
            return True

    @property
    def _lock(self) -> Path:
        return self.folder / "alive.lock"

    def export(self) -> None:
        """Make this the current run of this process and its children, by environment variables."""
        os.environ[RUN_VARIABLE] = self.name
        os.environ[EXPERIMENT_VARIABLE] = self.experiment


def current_decision() -> dict[str, Any]:
    """The decision on the alias of the current run's model; empty outside a run."""
    context = RunContext.current()
    return context.decision if context else {}
