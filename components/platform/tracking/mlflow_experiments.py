"""MLflow's experiments: their ids, and one that was deleted."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from components.platform.tracking.mlflow_charts import VIEW_TAG, view
from components.platform.workspace import artifacts_dir, is_local, tracking_uri
from gapgate.errors import TrackingRefusedError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ASK_TIMEOUT_S = 5.0


def refuse_deleted_experiment(name: str) -> None:
    """Find out before a run whether its experiment was deleted; MLflow, whose import takes seconds, is not asked. A
    server that does not answer, or refuses, is told about by the run.

    Raises:
        TrackingRefusedError: it was deleted.
    """
    if tracking_uri().startswith("sqlite:///"):
        found = _stored_experiment(Path(tracking_uri().removeprefix("sqlite:///")), name)
    elif tracking_uri().startswith(("http://", "https://")):
        found = _served_experiment(name)
    else:
        return
    if found and found[1] == "deleted":
        raise _deleted(name, found[0])


def _stored_experiment(file: Path, name: str) -> tuple[str, str] | None:
    """Id and lifecycle stage of an experiment in MLflow's SQLite file."""
    if not file.exists():
        return None
    query = "SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = ?"
    # Read-only: a look must neither make the file nor write to it.
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as db:
        for number, stage in db.execute(query, (name,)):
            return str(number), str(stage)
    return None


def _served_experiment(name: str) -> tuple[str, str] | None:
    """Id and lifecycle stage of an experiment on an MLflow server; None if it does not say."""
    import requests

    headers, auth = {}, None
    # As MLflow's own client: a password goes before a token.
    if (user := os.environ.get("MLFLOW_TRACKING_USERNAME")) and (word := os.environ.get("MLFLOW_TRACKING_PASSWORD")):
        auth = (user, word)
    elif token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    verify = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True
    url = f"{tracking_uri().rstrip('/')}/api/2.0/mlflow/experiments/get-by-name"
    with suppress(requests.RequestException, ValueError, KeyError, TypeError):
        answer = requests.get(
            url, {"experiment_name": name}, headers=headers, auth=auth, timeout=_ASK_TIMEOUT_S, verify=verify
        )
        found = answer.json()["experiment"]
        return str(found["experiment_id"]), str(found["lifecycle_stage"])
    return None


def _deleted(name: str, number: str) -> TrackingRefusedError:
    # A server's address is in the user's environment, and may hold a password; the local store's is not.
    store = f"MLFLOW_TRACKING_URI={tracking_uri()} " if is_local() else ""
    return TrackingRefusedError(
        f"the MLflow experiment {name!r} was deleted; bring it back with "
        f"`{store}mlflow experiments restore --experiment-id {number}`, "
        "or name another with --set tracking.experiment=NAME"
    )


def experiment_id(mlflow_client: MlflowClient, name: str) -> str:
    """The id of the experiment `name`, which is made when it is new; two runs may do so at once.

    Raises:
        TrackingRefusedError: it was deleted.
    """
    from mlflow.exceptions import MlflowException

    if found := mlflow_client.get_experiment_by_name(name):
        if found.lifecycle_stage == "deleted":
            raise _deleted(name, found.experiment_id)
        if found.tags.get(VIEW_TAG) != view():
            # One of a version before; without it a run is none the worse.
            with suppress(MlflowException):
                mlflow_client.set_experiment_tag(found.experiment_id, VIEW_TAG, view())
        return str(found.experiment_id)
    # For a local store MLflow would otherwise make `mlruns/` in the current folder.
    location = artifacts_dir().as_uri() if tracking_uri().startswith("sqlite:") else None
    try:
        kind = {
            "mlflow.experimentKind": "custom_model_development"
        }  # else the UI opens on its page for language models
        return str(mlflow_client.create_experiment(name, artifact_location=location, tags=kind | {VIEW_TAG: view()}))
    except MlflowException:
        if found := mlflow_client.get_experiment_by_name(name):
            return str(found.experiment_id)
        raise
