"""Closing the MLflow runs of pipeline runs whose own steps could not: their pods were killed."""

from __future__ import annotations

from components.platform import kfp_run
from components.platform.run_context import RunContext
from components.platform.tracking.mlflow_client import away_errors, client
from components.platform.tracking.mlflow_runs import read_state, runs_named, send_and_mark
from components.platform.workspace import runs_dir


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


def end_lost() -> None:
    """Close, in a pod, the MLflow runs of the workspace that ended without doing so, as those of pods that were killed;
    KFP's API tells which.

    Raises:
        TrackingError: the server does not answer; call again later.
    """
    for folder in runs_dir().glob("*/spool") if kfp_run.is_pod() else ():
        state = read_state(folder)
        if not state or state.get("ended") or not (run := kfp_run.find(folder.parent.name)) or not run.has_ended:
            continue
        context = RunContext(folder.parent.name)
        send_and_mark(context, "KILLED" if run.was_cancelled else "FAILED")
