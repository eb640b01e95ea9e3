"""Argo's workflow behind a run: its nodes, as Kubeflow Pipelines' v1beta1 view of the run holds them.

The v2beta1 API lists the same nodes as tasks, but without their paths, messages, templates and exit codes. With the
retry strategy of KFP's manifests every node stands twice, as `X` and as its try `X(0)`. So a step `train` is a subtree:

    WORKFLOW(0).root(0).train-driver          decides whether the step runs, and by which pod
    WORKFLOW(0).root(0).train                 the step; succeeded without an executor: its result is from the cache
    WORKFLOW(0).root(0).train(0).executor(1)  the pod of its second try
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from components.catalog import TASKS

_TRY = re.compile(r"\((\d+)\)$")
_STATES = {
    "Pending": "PENDING",
    "Running": "RUNNING",
    "Succeeded": "SUCCEEDED",
    "Failed": "FAILED",
    "Error": "FAILED",
}
"""Argo's phase of a node → KFP's state of a task; the phases Skipped and Omitted are those of steps that never ran."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A log in the object store that Argo keeps it in."""

    source: str
    """`s3` for Amazon's, `minio` for any other that speaks its protocol, as KFP's UI calls them."""
    bucket: str
    key: str


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a workflow."""

    path: tuple[str, ...]
    """Names from the workflow down to the node, without the numbers of tries."""
    tries: tuple[int, ...]
    """Numbers of tries on that path, each from 0."""
    kind: str
    """Pod, DAG, Retry, Skipped …"""
    phase: str
    """Pending, Running, Succeeded, Failed, Error, Skipped, Omitted."""
    message: str
    exit_code: int | None
    """Exit code of the main container of a pod that has ended."""
    pod: str
    """Name of the pod; empty where the node is none."""
    started: datetime | None
    ended: datetime | None
    archive: Archive | None = None
    """Place of the log of a pod that has ended; None where Argo keeps none."""


@dataclass(frozen=True, slots=True)
class Step:
    """State of one step of a run."""

    name: str
    state: str
    """KFP's state: PENDING, RUNNING, SUCCEEDED, FAILED or CANCELED."""
    started: datetime | None
    ended: datetime | None
    is_waiting: bool = False
    """True while its driver or its pod has not begun."""
    is_cached: bool = False
    """True if its result is that of an earlier run."""
    messages: tuple[str, ...] = ()
    """Messages of Argo on its pods and itself, the last try first."""
    exit_code: int | None = None
    """Exit code of its last try."""
    pods: tuple[str, ...] = ()
    """Names of its pods, the last try first."""
    archives: tuple[Archive | None, ...] = ()
    """Places of the logs of those pods."""


def nodes_of(manifest: str) -> list[Node]:
    """The nodes in a workflow's manifest (JSON); what cannot be read is left out."""
    try:
        content = json.loads(manifest)
        workflow, status = content["metadata"]["name"], content["status"]
        store = ((status.get("artifactRepositoryRef") or {}).get("artifactRepository") or {}).get("s3") or {}
        return [node for one in status["nodes"].values() if (node := _node(one, workflow, store))]
    except (ValueError, KeyError, TypeError, AttributeError):  # no workflow yet: the status has no nodes
        return []


def steps_of(nodes: list[Node], *, is_canceled: bool = False) -> dict[str, Step]:
    """The steps that have begun, resolve among them, in the order of the pipeline; what fails in a canceled run is
    canceled."""
    found = {}
    for name in TASKS:
        if (step := _step(name, nodes)) is not None:
            if is_canceled and step.state == "FAILED":
                step = replace(step, state="CANCELED", is_waiting=False, messages=(), exit_code=None)
            found[name] = step
    return found


def _node(one: Any, workflow: str, store: dict[str, Any]) -> Node | None:
    try:
        names = one["name"].split(".")
        is_pod = one["type"] == "Pod"
        code = (one.get("outputs") or {}).get("exitCode")
        return Node(
            path=tuple(_TRY.sub("", name) for name in names),
            tries=tuple(int(match[1]) for name in names if (match := _TRY.search(name))),
            kind=one["type"],
            phase=one.get("phase") or "Pending",
            message=" ".join((one.get("message") or "").split()),
            exit_code=int(code) if code is not None else None,
            # Argo's second version of pod names: the node's id with the template's name in it.
            pod=f"{workflow}-{one['templateName']}-{one['id'].rpartition('-')[2]}" if is_pod else "",
            started=_time(one.get("startedAt")),
            ended=_time(one.get("finishedAt")),
            archive=_archive(one.get("outputs") or {}, store) if is_pod else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _archive(outputs: dict[str, Any], store: dict[str, Any]) -> Archive | None:
    keys = [one["s3"]["key"] for one in outputs.get("artifacts") or [] if one["name"] == "main-logs" and "s3" in one]
    if not keys or not store.get("bucket"):
        return None
    return Archive("s3" if "amazonaws.com" in store.get("endpoint", "") else "minio", store["bucket"], keys[0])


def _step(name: str, nodes: list[Node]) -> Step | None:
    drivers = [node for node in nodes if node.path[-1] == f"{name}-driver" and node.phase in _STATES]
    own = [node for node in nodes if node.path[-1] == name and node.phase in _STATES]
    # The driver alone: it is at work or has failed, or it has said to skip the step.
    if not own and (not drivers or _outer(drivers).phase == "Succeeded"):
        return None
    of_pods = drivers if not own else [node for node in nodes if node.path[-2:] == (name, "executor")]
    pods = sorted((node for node in of_pods if node.kind == "Pod"), key=lambda node: node.tries, reverse=True)
    outer = _outer(own or drivers)
    state = _STATES[outer.phase]
    return Step(
        name,
        state,
        outer.started,
        outer.ended,
        # While its pod waits, Argo calls the step Running and only the pod's node Pending.
        is_waiting=state in ("PENDING", "RUNNING") and (not pods or pods[0].phase == "Pending"),
        is_cached=state == "SUCCEEDED" and not pods,
        messages=tuple(dict.fromkeys(node.message for node in (*pods, outer) if node.message)),
        exit_code=next((node.exit_code for node in pods), None),
        pods=tuple(node.pod for node in pods),
        archives=tuple(node.archive for node in pods),
    )


def _outer(nodes: list[Node]) -> Node:
    """The node that stands for all its tries, of which one may have failed before another passed."""
    return min(nodes, key=lambda node: len(node.tries))


def _time(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if value else None
