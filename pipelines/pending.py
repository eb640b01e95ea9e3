"""Runs that ended while the tracking server was away."""

from __future__ import annotations

from components.platform import tracking
from components.platform.context import RunContext
from components.platform.home import runs_dir
from gapgate import artifacts
from pipelines.local import resume_registration


def pending_runs() -> list[RunContext]:
    """Runs whose spool was not sent whole, oldest first."""
    names = sorted(folder.parent.name for folder in runs_dir().glob("*/spool"))
    contexts = [RunContext(name) for name in names]
    return [context for context in contexts if not context.is_alive() and not tracking.is_sent(context)]


def settle(context: RunContext) -> str:
    """Send a run's spool, and register and package its model where that could not be done; says what was done.

    Raises:
        TrackingError: the server still does not answer.
    """
    settings = context.folder / "settings.json"
    if settings.exists():
        experiment = artifacts.read_json(settings)["tracking"]["experiment"]
        context = RunContext(context.name, experiment)
        result = (
            artifacts.read_json(context.folder / "result.json") if (context.folder / "result.json").exists() else {}
        )
        if (result.get("failure") or {}).get("exit_code") == 4:
            resume_registration(context)
            return "sent, registered"
    tracking.finish(context, succeeded=True)
    return "sent"
