"""Closing the MLflow runs of pipeline runs whose own steps could not: their pods were killed."""

from __future__ import annotations

import time
from pathlib import Path

from components.platform import kfp_run
from components.platform.run_context import RunContext
from components.platform.tracking.mlflow_client import away_errors, client
from components.platform.tracking.mlflow_runs import Status, read_state, runs_named, send_and_mark
from components.platform.workspace import runs_dir
from gapgate.errors import ArtifactError

_QUIET_S = 120.0
"""Seconds after which a step of a run that is being canceled has no pod any more: it is given thirty to end."""


def kill_named(experiment: str, name: str) -> bool:
    """Close the MLflow run of the pipeline run `name`, whose spool is elsewhere, as KILLED; False if there is none.

    Raises:
        TrackingError: the server does not answer.
    """
    with away_errors():
        mlflow_client = client()
        if (found := mlflow_client.get_experiment_by_name(experiment)) is None:
            return False
        runs = runs_named(mlflow_client, found.experiment_id, name)
        for run in runs:
            mlflow_client.set_terminated(run.info.run_id, "KILLED")
        return bool(runs)


def _is_left(run: kfp_run.KfpRun, folder: Path) -> bool:
    """True if a run is being canceled and none of its steps has said anything for long."""
    newest = max((path.stat().st_mtime for path in folder.glob("*.jsonl")), default=0.0)
    return run.is_canceling and time.time() - newest > _QUIET_S


def end_lost() -> dict[str, Status]:
    """Close, in a pod, the MLflow runs of the workspace that ended without doing so, as those of pods that were killed;
    KFP's API tells which. Returns the name and the status of each.

    Raises:
        TrackingError: the server does not answer; call again later.
    """
    closed: dict[str, Status] = {}
    for folder in runs_dir().glob("*/spool") if kfp_run.is_pod() else ():
        name = folder.parent.name
        try:
            state = read_state(folder)
        except ArtifactError:  # `gapgate sync` names it and sets it aside
            continue
        if state.get("ended") or not (run := kfp_run.find(name)) or not (run.has_ended or _is_left(run, folder)):
            continue
        status: Status = "FINISHED" if run.has_succeeded else "KILLED" if run.was_cancelled else "FAILED"
        # A server that was away for the whole run gets it now, so the experiment counts.
        send_and_mark(RunContext(name, run.experiment) if run.experiment else RunContext(name), status)
        closed[name] = status
    return closed
