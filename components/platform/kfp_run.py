"""The Kubeflow Pipelines run that a pod works for, asked of KFP's API.

From the API, not from parameters of the pipeline: those are in the keys of KFP's cache. The pods have the run's id as a
label; its name is on the workflow alone (KFP 2.17).
"""

from __future__ import annotations

import getpass
import os
import re
from dataclasses import dataclass
from typing import Any

_API = "http://ml-pipeline.kubeflow:8888"
"""Address of the API, as KFP's launcher has it. `KF_PIPELINES_ENDPOINT` names another."""
_TIMEOUT_S = 5.0
_SUBMITTED = re.compile(r"; submitted(?: by (.+?))? at (https?://\S+);")
_ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
_NOT_FOUND = 5
"""Code of KFP's answer for a run that was deleted, which a proxy's own 404 does not have."""


@dataclass(frozen=True, slots=True)
class KfpRun:
    """A run as KFP's API describes it."""

    name: str
    """Name that the user sees in KFP's UI."""
    user: str
    """User who called `gapgate submit`; empty for a run that was started in another way."""
    url: str
    """The run's page in KFP's UI; empty where the user is."""
    experiment: str
    """MLflow experiment among its parameters; empty for a run that names none."""
    has_ended: bool
    has_succeeded: bool
    was_cancelled: bool
    is_canceling: bool = False
    """True while its pods are being ended; for ever, if its workflow was deleted."""


def is_pod() -> bool:
    """True in a pod of a KFP run."""
    return "KFP_POD_NAME" in os.environ


def submitted(ui: str) -> str:
    """The part of a run's description that names this user and the URL of KFP's UI, from where `find` reads them."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a pod's user has no name
        user = ""
    return f"; submitted{user and ' by ' + user} at {ui}" if ui else ""


def page(ui: str, run_id: str) -> str:
    """URL of a run's page in KFP's UI."""
    return f"{ui.rstrip('/')}/#/runs/details/{run_id}"


def find(run_id: str) -> KfpRun | None:
    """Ask for the run `run_id`; None outside of KFP's pods, and if the API does not answer."""
    if not is_pod():
        return None
    import requests

    host = os.environ.get("KF_PIPELINES_ENDPOINT") or _API
    try:
        answer = requests.get(f"{host}/apis/v2beta1/runs/{run_id}", timeout=_TIMEOUT_S)
        if answer.status_code == requests.codes.not_found and answer.json().get("code") == _NOT_FOUND:
            return KfpRun("", "", "", "", has_ended=True, has_succeeded=False, was_cancelled=True)
        answer.raise_for_status()
        return _read(answer.json())
    # AttributeError: the answer is JSON, but no object.
    except (requests.RequestException, AttributeError):
        return None


def _read(found: dict[str, Any]) -> KfpRun:
    submitted = _SUBMITTED.search(found.get("description") or "")
    user, ui = submitted.groups() if submitted else ("", "")
    parameters = (found.get("runtime_config") or {}).get("parameters") or {}
    # A terminated run ends as FAILED; only its history says why.
    states = {entry.get("state") for entry in found.get("state_history") or []} | {found.get("state")}
    return KfpRun(
        name=found.get("display_name") or "",
        user=user or "",
        url=page(ui, found.get("run_id") or "") if ui else "",
        experiment=str(parameters.get("experiment") or ""),
        has_ended=found.get("state") in _ENDED,
        has_succeeded=found.get("state") == "SUCCEEDED",
        was_cancelled=bool(states & {"CANCELING", "CANCELED"}),
        is_canceling=found.get("state") == "CANCELING",
    )
