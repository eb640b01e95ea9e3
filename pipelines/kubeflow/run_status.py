"""Status of a run in Kubeflow Pipelines: its steps, its verdict, and the reason of a failure or a wait."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import gapgate.errors
from components.catalog import RESOLVE
from components.platform.step_log import error_in
from pipelines.kubeflow import kubernetes_api
from pipelines.kubeflow.client import Kfp
from pipelines.kubeflow.workflow import Step, steps_of

ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
# Groups 1 and 2: an error of gapgate.errors. Groups 3 and 4: any other exception.
_RAISED = re.compile(r"^(?:gapgate\.errors\.)(\w+): (.+)$|^(\w+(?:\.\w+)*(?:Error|Exception)): (.+)$", re.MULTILINE)

_CONDITION = re.compile(r"condition-\d+")


@dataclass(frozen=True, slots=True)
class Failure:
    """Reason why a step failed or does not begin, with the exit code of the command."""

    step: str
    message: str
    exit_code: int = 1


@dataclass(frozen=True, slots=True)
class Status:
    """Status of a run at one moment, as Kubeflow Pipelines knows it."""

    run: Any
    """Its `V2beta1Run`."""
    steps: dict[str, Step] = field(default_factory=dict)
    """The steps that have begun, in the order of the pipeline."""

    @classmethod
    def of(cls, kfp: Kfp, run_id: str) -> Status:
        """Ask Kubeflow Pipelines for a run.

        Raises:
            ClusterError: it refuses, or there is no such run.
            ClusterAwayError: it does not answer.
        """
        run = kfp.run(run_id)
        return cls(run, steps_of(kfp.nodes(run_id), is_canceled=state_of(run) == "CANCELED"))

    @property
    def state(self) -> str:
        """State of the run."""
        return state_of(self.run)

    @property
    def waiting(self) -> Step | None:
        """The first step whose pod has not begun; None if there is none."""
        return next((step for step in self.steps.values() if step.is_waiting), None)


# (pattern in Kubernetes' or Argo's words, remedy, exit code: 2 where the user can mend it, else 1). First match wins.
_REMEDIES = (
    (
        "ErrImagePull|ImagePullBackOff|InvalidImageName|ErrImageNeverPull|manifest unknown",
        "its image cannot be pulled; check `images` in the cluster file: name, tag and pull_secrets",
        2,
    ),
    (
        'secrets? "?(?P<name>[\\w.-]+)"? not found',
        "the Secret {name} is missing; make it with `kubectl -n {namespace} create secret generic {name}`, or leave it "
        "out of steps.{step}.secrets in the cluster file",
        2,
    ),
    (
        "couldn't find key (?P<name>[\\w.-]+)",
        "its Secret has no key {name}; `kubectl -n {namespace} describe secrets` shows what each has",
        2,
    ),
    (
        "CreateContainerConfigError|configmap",
        "a Secret, ConfigMap or user of its container is not as the cluster file says",
        2,
    ),
    (
        'persistentvolumeclaim "?(?P<name>[\\w.-]+)"? not found',
        "the claim {name} is missing in the namespace {namespace}; `workspace.claim` in the cluster file names it, and "
        "infra/kubernetes/runs makes it",
        2,
    ),
    (
        "unbound immediate PersistentVolumeClaims|FailedAttachVolume|FailedMount",
        "its volume is not there yet; `kubectl -n {namespace} describe pvc` says what it waits for",
        1,
    ),
    (
        "OOMKilled|[Ee]xit code:? 137",
        "it took more memory than it may; raise steps.{step}.memory_limit in the cluster file, or lower the batch size",
        1,
    ),
    (
        "Insufficient |Unschedulable|unschedulable",
        "no node has free what it asks for; check --gpu KIND=COUNT, and steps.{step} in the cluster file: requests, "
        "node_selector and tolerations",
        2,
    ),
    (
        "DeadlineExceeded|active on the node longer than",
        "it took longer than it may; raise steps.{step}.timeout_s in the cluster file",
        1,
    ),
)


def state_of(run: Any) -> str:
    """State of a run, CANCELED for one that was: KFP ends it as FAILED, and has CANCELING in the history alone."""
    state = run.state or "PENDING"
    was_canceled = any(one.state == "CANCELING" for one in run.state_history or [])
    return "CANCELED" if state == "FAILED" and was_canceled else str(state)


def verdict_of(run: Any) -> str:
    """`pass` if the gate let a run that succeeded pass, `not passed` if it did not; empty for other runs."""
    tasks = (run.run_details and run.run_details.task_details) or []
    if run.state != "SUCCEEDED" or not tasks:
        return ""
    # KFP numbers conditions. The outer one is the gate's; the inner one, of a model that is packaged already, is only
    # there if the outer one holds. KFP 2.17 writes the run before its tasks: for a moment a condition still runs in it.
    held = ("SUCCEEDED", "RUNNING")
    passed = any(_CONDITION.fullmatch(task.display_name or "") and task.state in held for task in tasks)
    return "pass" if passed else "not passed"


def seconds_of(run: Any) -> float | None:
    """Duration of a run in seconds; None before it has ended."""
    began, ended = _time(run.created_at), _time(run.finished_at)
    return (ended - began).total_seconds() if began and ended else None


def failure_of(kfp: Kfp, status: Status) -> Failure:
    """The reason why a run failed, from Argo, Kubernetes and the step's log."""
    failed = next((step for step in status.steps.values() if step.state == "FAILED"), None)
    if failed is None:
        said = " ".join((status.run.error.message or "").split()) if status.run.error else ""
        return Failure("pipeline", said or f"ended as {status.state}; {kfp.run_url(status.run.run_id)} shows where")
    # Kubernetes first: of a container that was killed, the log ends in the middle of its work.
    if (found := _remedied(failed, kfp.pod_namespace)) is not None:
        return found
    log = kfp.log(status.run.run_id, failed) or ""
    if said_by_step := error_in(log):
        return Failure(failed.name, *said_by_step)
    # The last one: an exception that was handled may stand before it.
    if raised := list(_RAISED.finditer(log)):
        return _as_raised(failed.name, raised[-1])
    known = "; ".join(failed.messages)
    by_hand = kfp.logs_command(status.run.run_id, failed)
    return Failure(failed.name, f"{known}; its log says more: {by_hand}" if known else f"{by_hand} shows its log")


def waiting_reason(kfp: Kfp, step: Step) -> Failure | None:
    """The reason why a step's pod does not begin; None unless Kubernetes gives one that needs a remedy."""
    reason = _remedied(step, kfp.pod_namespace)
    if reason is None or "Insufficient" not in reason.message or not step.pods:
        return reason
    asked = kubernetes_api.pod_requests(kfp.pod_namespace, step.pods[0])
    if asked is None or (nodes := kubernetes_api.nodes()) is None:
        return reason
    free = "; ".join(f"{node.name} has {kubernetes_api.text(node.free)} free" for node in nodes[:3])
    asked_and_free = f" (it asks for {kubernetes_api.text(asked)}; {free}) ("
    return replace(reason, message=reason.message.replace(" (", asked_and_free, 1))


def _remedied(step: Step, namespace: str) -> Failure | None:
    said = "; ".join(step.messages)
    for pattern, remedy, exit_code in _REMEDIES:
        if match := re.search(pattern, said):
            named = {name: value for name, value in match.groupdict().items() if value}
            # Its place in the cluster file is that of ingest.
            entry = "ingest" if step.name == RESOLVE else step.name
            text = remedy.format(step=entry, namespace=namespace, **({"name": "NAME"} | named))
            return Failure(step.name, f"{text} ({said[:300]})", exit_code)
    return None


def _as_raised(step: str, match: re.Match[str]) -> Failure:
    """The failure in a step's log: a `GapgateError` keeps its exit code, other exceptions have exit code 1."""
    if match[1]:
        error = getattr(gapgate.errors, match[1], None)
        return Failure(step, match[2], error.exit_code if error else 1)
    return Failure(step, f"{match[3]}: {match[4]}")


def _time(value: datetime | None) -> datetime | None:
    """The time, or None for KFP's 1970, which stands for a time that has not come."""
    return value if value and value.year > 1970 else None
