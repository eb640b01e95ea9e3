"""Runs that ended while the tracking server was away, and sending them later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.platform import mlflow_runs
from components.platform.run_context import RunContext
from components.platform.workspace import runs_dir
from gapgate import artifacts
from gapgate.errors import TrackingError
from pipelines.local.runner import resume_registration


def pending_runs() -> list[RunContext]:
    """Runs whose spool was not sent completely, oldest first; runs at work are left out."""
    names = sorted(folder.parent.name for folder in runs_dir().glob("*/spool"))
    contexts = [RunContext(name) for name in names]
    return [context for context in contexts if not context.is_alive() and not mlflow_runs.is_sent(context)]


def settle(context: RunContext) -> str:
    """Send a run's spool, register and package its model if that has failed, and return what was done as text.

    Raises:
        TrackingError: the server still does not answer.
    """
    settings, result = (_read(context.folder / name) for name in ("settings.json", "result.json"))
    if settings:
        context = RunContext(context.name, settings["tracking"]["experiment"])
    if (result.get("failure") or {}).get("exit_code") == TrackingError.exit_code:
        resume_registration(context)
        return "sent, registered"
    # A stage of DVC belongs to no `gapgate run` and has no result; a run without one was killed.
    has_passed = not settings or result.get("exit_code") == 0
    mlflow_runs.send_and_mark(context, "FINISHED" if has_passed else "FAILED" if result else "KILLED")
    return "sent"


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = artifacts.read_json(path, {})
    return found
