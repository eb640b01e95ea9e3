"""Status of a run in Kubeflow Pipelines: its steps, verdict, pods, logs, and the reason of a failure.

KFP's API lists the nodes of Argo's workflow as tasks: for each step `NAME-driver` and `NAME`, and below it `executor`
with one `executor(N)` for each try. It gives no error message and no pod of a step (both fields are in its models, and
KFP 2.16 fills neither), so pod names are computed here as Argo computes them, and KFP's UI is asked for the pods.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import gapgate.errors
from components.catalog import STEPS
from gapgate.errors import ClusterError
from pipelines.kubeflow.client import Kfp

ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
# Groups 1 and 2: an error of gapgate.errors. Groups 3 and 4: any other exception.
_RAISED = re.compile(r"^(?:gapgate\.errors\.)(\w+): (.+)$|^(\w+(?:\.\w+)*(?:Error|Exception)): (.+)$", re.MULTILINE)
_MAIN = "main"


@dataclass(frozen=True, slots=True)
class Step:
    """State of one step in a run."""

    name: str
    state: str
    """KFP's state: PENDING, RUNNING, SUCCEEDED, FAILED …"""
    started: datetime | None
    ended: datetime | None
    message: str = ""
    pod: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """Reason why a step failed or does not begin, with the exit code of the command."""

    step: str
    message: str
    exit_code: int = 1


# (pattern in Kubernetes' or Argo's words, remedy, exit code: 2 where the user can mend it, else 1). First match wins.
_REMEDIES = (
    (
        "ErrImagePull|ImagePullBackOff|InvalidImageName|ErrImageNeverPull|manifest unknown",
        "its image cannot be pulled; check `images` in the cluster file: name, tag and pull_secrets",
        2,
    ),
    (
        'CreateContainerConfigError|secrets? "?[\\w.-]+"? not found|couldn\'t find key',
        "a Secret, or a key of one, is missing; make it with `kubectl -n {namespace} create secret generic`",
        2,
    ),
    (
        "OOMKilled|[Ee]xit code:? 137|exitCode 137",
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
        "DeadlineExceeded|active on the node longer than|deadline",
        "it took longer than it may; raise steps.{step}.timeout_s in the cluster file",
        1,
    ),
)


def steps_of(run: Any) -> dict[str, Step]:
    """The steps that have begun, in the order of the pipeline."""
    tasks = {task.display_name: task for task in _tasks(run)}
    found = {}
    for name in STEPS:
        task, driver = tasks.get(name), tasks.get(f"{name}-driver")
        # A driver fails before its step exists, and its error is the step's.
        if driver is not None and driver.state == "FAILED":
            task = driver
        if task is not None and task.state in ("PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELED"):
            started, ended = _time(task.start_time), _time(task.end_time)
            message = " ".join((task.error.message or "").split()) if task.error else ""
            found[name] = Step(name, task.state, started, ended, message, task.pod_name or "")
    return found


def verdict_of(run: Any) -> str:
    """`pass` if `package` ran in a run that succeeded, `not passed` if it did not; empty for other runs."""
    if run.state != "SUCCEEDED" or not _tasks(run):
        return ""
    package = steps_of(run).get("package")
    return "pass" if package and package.state == "SUCCEEDED" else "not passed"


def seconds_of(run: Any) -> float | None:
    """Duration of a run in seconds; None before it has ended."""
    began, ended = _time(run.created_at), _time(run.finished_at)
    return (ended - began).total_seconds() if began and ended else None


def waiting_step(run: Any) -> str:
    """Name of the step whose pod has not begun; empty if there is none."""
    states = {task.display_name: task.state for task in _tasks(run)}
    # While its pod waits, KFP calls the step RUNNING and only its executor PENDING.
    is_waiting = any(state == "PENDING" for name, state in states.items() if name.startswith("executor"))
    for name in STEPS:
        if states.get(f"{name}-driver") == "PENDING" or states.get(name) == "PENDING":
            return name
        if states.get(name) == "RUNNING" and is_waiting:
            return name
    return ""


def failure_of(kfp: Kfp, run: Any) -> Failure:
    """The reason why a run failed, from KFP, Kubernetes and the step's log."""
    failed = next((step for step in steps_of(run).values() if step.state == "FAILED"), None)
    if failed is None:
        said = " ".join((run.error.message or "").split()) if run.error else ""
        return Failure("pipeline", said or f"ended as {run.state}; {kfp.run_url(run.run_id)} shows where")
    pods = list(pods_of(kfp, run, failed.name))
    known = f"{failed.message} {next(filter(None, (_pod_says(pod) for _, pod in pods)), '')}".strip()
    if (found := _remedied(failed.name, known, kfp.pod_namespace)) is not None:
        return found
    # Kubernetes first: of a container that was killed, the log ends in the middle of its work.
    log = log_of(kfp, run, failed.name)
    # The last one: an exception that was handled may stand before it.
    if log and (raised := list(_RAISED.finditer(log))):
        return _as_raised(failed.name, raised[-1])
    message = known or f"no reason is known here; {logs_command(kfp, run, failed.name)} shows its log"
    return Failure(failed.name, message)


def waiting_reason(kfp: Kfp, run: Any, step: str) -> Failure | None:
    """The reason why a step's pod does not begin; None unless Kubernetes gives one that needs a remedy."""
    for _, pod in pods_of(kfp, run, step):
        if (found := _remedied(step, _pod_says(pod), kfp.pod_namespace)) is not None:
            return found
    return None


def log_of(kfp: Kfp, run: Any, step: str) -> str | None:
    """The log of a step's last try; None if KFP's UI has none."""
    # Kubernetes may have deleted the pods; KFP's UI keeps their logs under the same names.
    names = [name for name, _ in pods_of(kfp, run, step)] or list(pod_names(kfp, run, step))
    return next((log for name in names if (log := kfp.pod_log(name, run)) is not None), None)


def logs_command(kfp: Kfp, run: Any, step: str) -> str:
    """Command that prints a step's log without KFP's UI, by the labels of its pod."""
    labels = f"pipeline/runid={run.run_id},gapgate/step={step}"
    return f"`kubectl -n {kfp.pod_namespace} logs -l {labels} -c {_MAIN} --tail=-1`"


def pods_of(kfp: Kfp, run: Any, step: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and record of each pod of a step that Kubernetes still has, the last try first."""
    for name in pod_names(kfp, run, step):
        if pod := kfp.pod(name):
            yield name, pod


def pod_names(kfp: Kfp, run: Any, step: str) -> Iterator[str]:
    """Names that a step's pods may have, the last try first: from KFP, else computed as Argo's version 2 of pod names:
    workflow, template, and the FNV-1a hash of the node's path (`generatePodName` of Argo Workflows 3.6)."""
    if (known := steps_of(run).get(step)) and known.pod:
        yield known.pod
        return
    workflow = next((_workflow(child.pod_name) for task in _tasks(run) for child in task.child_tasks or []), "")
    try:
        place = _place(kfp.spec(run), step)
    except ClusterError:  # the version was deleted; the reason may be found elsewhere
        return
    if not workflow or place is None:
        return
    path, template, num_retries = place
    # Argo has a node for each try only where the template has a retry strategy, else the executor's own node.
    nodes = [f"executor({attempt})" for attempt in range(num_retries, -1, -1)] if num_retries else []
    for node in (*nodes, "executor"):
        yield f"{workflow}-{template}-{fnv1a(f'{workflow}.{path}.{node}')}"


def fnv1a(text: str) -> int:
    """The 32-bit FNV-1a hash (RFC 9923)."""
    value = 0x811C9DC5
    # The mask keeps 32 bits, as the multiplication does in Go's uint32.
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def _place(spec: dict[str, Any], step: str) -> tuple[str, str, int] | None:
    """Path, template and number of retries of a step in Argo's workflow, derived from the compiled pipeline as KFP's
    `argocompiler` does; None if the pipeline has no such step."""
    pipeline = spec.get("pipeline_spec", spec)
    found = next(_find(pipeline, pipeline.get("root", {}), "root", step), None)
    if found is None:
        return None
    path, task = found
    executors = (
        spec.get("platform_spec", {}).get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {})
    ).get("executors", {})
    label = pipeline["components"][task["componentRef"]["name"]].get("executorLabel", "")
    metadata = executors.get(label, {}).get("podMetadata")
    num_retries = int(task.get("retryPolicy", {}).get("maxRetryCount", 0))
    template = f"{'retry-' if 'retryPolicy' in task else ''}system-container-impl"
    if metadata is not None:
        # argocompiler puts the numbers of annotations and labels into the template's name.
        template = f"metadata-{len(metadata.get('annotations', {}))}-{len(metadata.get('labels', {}))}-{template}"
    return path, template, num_retries


def _find(pipeline: dict[str, Any], component: dict[str, Any], path: str, step: str) -> Iterator[tuple[str, Any]]:
    for name, task in component.get("dag", {}).get("tasks", {}).items():
        if name == step:
            yield f"{path}.{name}", task
        inner = pipeline["components"][task["componentRef"]["name"]]
        yield from _find(pipeline, inner, f"{path}.{name}", step)


def _pod_says(pod: dict[str, Any]) -> str:
    """Reasons and messages in a pod's status, as one line."""
    status = pod.get("status", {})
    parts = [status.get("reason"), status.get("message")]
    for container in (*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])):
        for kind in ("waiting", "terminated"):
            # A container that is restarted has its reason in lastState.
            state = container.get("state", {}).get(kind) or container.get("lastState", {}).get(kind) or {}
            if state.get("reason") in (None, "Completed", "PodInitializing", "ContainerCreating"):
                continue
            code = f"exit code {state['exitCode']}" if "exitCode" in state else None
            parts += [state["reason"], code, state.get("message")]
    for condition in status.get("conditions", []):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            parts += [condition.get("reason"), condition.get("message")]
    return " ".join(", ".join(str(part) for part in parts if part).split())


def _remedied(step: str, said: str, namespace: str) -> Failure | None:
    for pattern, remedy, exit_code in _REMEDIES:
        if re.search(pattern, said):
            return Failure(step, f"{remedy.format(step=step, namespace=namespace)} ({said[:300]})", exit_code)
    return None


def _as_raised(step: str, match: re.Match[str]) -> Failure:
    """The failure in a step's log: a `GapgateError` keeps its exit code, other exceptions have exit code 1."""
    if match[1]:
        error = getattr(gapgate.errors, match[1], None)
        return Failure(step, match[2], error.exit_code if error else 1)
    return Failure(step, f"{match[3]}: {match[4]}")


def _workflow(node: str) -> str:
    return node.rpartition("-")[0]


def _tasks(run: Any) -> list[Any]:
    return list((run.run_details and run.run_details.task_details) or [])


def _time(value: datetime | None) -> datetime | None:
    """The time, or None for KFP's 1970, which stands for a time that has not come."""
    return value if value and value.year > 1970 else None
