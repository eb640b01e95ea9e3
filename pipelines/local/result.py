"""Files that a run leaves for people and for the next command: its result, its report and a link to its Bento."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.platform.run_context import RunContext
from components.platform.tracking.spool import Event, Spool
from gapgate import artifacts, summed_json
from gapgate.errors import ArtifactError, GapgateError, storage_errors
from pipelines.local import reports

SETTINGS = "settings.json"
RESERVED_BYTES = 64 * 1024
"""Bytes that a run keeps free for its result, which a disk that fills up meanwhile must not cost."""
_BENTO = "model.bento"


@dataclass(slots=True)
class RunResult:
    """Result of a run."""

    context: RunContext
    failure: Event | None = None
    """The `failed` event of the step that ended the run."""
    tracking_notice: str = ""
    """Reason why reports have not reached the tracking server; empty if they have."""
    outputs: dict[str, Path] = field(default_factory=dict)
    """Kind of artifact → its folder, for every step that ended well."""

    @property
    def exit_code(self) -> int:
        """0: passed; 2: a user's mistake; 3: the gate did not pass; 4: not registered yet; 75: a remote of the data is
        away; 1: anything else."""
        if self.failure:
            return int(self.failure["exit_code"])
        verdict = artifacts.read_json(self.outputs["certificate"] / "certificate.json")["verdict"]
        return 0 if verdict == "pass" else 3


def failure_of(reason: str | GapgateError) -> Event:
    """The `failed` event of a run that ended outside its steps."""
    exit_code, error = (reason.exit_code, type(reason).__name__) if isinstance(reason, GapgateError) else (1, "")
    return {"step": "pipeline", "message": str(reason), "exit_code": exit_code, "trace": "", "error": error}


def reserve(context: RunContext) -> Path:
    """File that takes `RESERVED_BYTES` while a run is at work."""
    return context.folder / "reserve"


def settings_digest(context: RunContext) -> str:
    """sha256 (hex) of the file with a run's settings, which its result keeps; empty where there is none."""
    places = (context.folder / SETTINGS, context.spool / SETTINGS)
    return next((artifacts.sha256_file(place) for place in places if place.exists()), "")


def give_results(result: RunResult) -> None:
    """Put what people open into the run's folder: the report, with what is known by now, and a link to the Bento.

    Raises:
        StorageError: the disk is full.
    """
    folder, outputs = result.context.folder, result.outputs
    with storage_errors(folder):
        # One that is damaged is told by the step that reads it, and costs no registration.
        with contextlib.suppress(ArtifactError):
            reports.write(reports.of_run(result.context), folder / reports.REPORT)
            # In MLflow in the place of the one that `gate` wrote, which knows neither version nor receipt.
            if "registration" in outputs:
                Spool(result.context.spool, "run").file(folder / reports.REPORT, "report")
        if "bento" in outputs:
            place = folder / _BENTO
            # `resume_registration` links a second time.
            place.unlink(missing_ok=True)
            # Relative, so that the workspace can be moved.
            place.symlink_to((outputs["bento"] / _BENTO).relative_to(folder))


def write_result(result: RunResult) -> None:
    """Write `result.json`, the last file of a run: one without it was killed.

    Raises:
        StorageError: the disk is full, the reserve included.
    """
    content: dict[str, Any] = {
        "exit_code": result.exit_code,
        "failure": result.failure,
        "outputs": {kind: str(path.relative_to(result.context.folder)) for kind, path in result.outputs.items()},
        "ended_at": time.time(),
        "settings": settings_digest(result.context),
    }
    with storage_errors(result.context.folder):
        # First, so that the result has its room.
        reserve(result.context).unlink(missing_ok=True)
        summed_json.write(result.context.folder / "result.json", content)
