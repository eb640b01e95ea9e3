"""Following a run on a cluster to its end, step by step."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from components.platform.step_log import Ending, ending_in
from gapgate.errors import ClusterAwayError, TrackingError
from pipelines.display import Display
from pipelines.kubeflow.client import Kfp
from pipelines.kubeflow.run_status import ENDED, Failure, Status, failure_of, waiting_reason

_ASK_AFTER_S = 2.0
"""Seconds after which a step's wait is explained; a pod that has what it needs begins earlier."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Intervals and timeouts of following a run, in seconds."""

    poll_s: float = 2.0
    """Seconds between two requests for the run."""
    pending_s: float = 600.0
    """Seconds that a step may wait for a node or an image."""
    away_s: float = 300.0
    """Seconds that KFP may be away."""


@dataclass(slots=True)
class Outcome:
    """End of a run, or the reason why it is no longer followed."""

    status: Status
    failure: Failure | None = None
    is_shown: bool = True
    """True if the failure was shown already, as the end of a step."""
    has_ended: bool = True
    endings: dict[str, Ending] = field(default_factory=dict)
    """Step → what it said at its end, where its log is known."""


class _Shown:
    """Shows the states of the steps, each once."""

    def __init__(self, kfp: Kfp, display: Display) -> None:
        self._kfp = kfp
        self._display = display
        self._states: dict[str, str] = {}
        self.failure: Failure | None = None
        self.endings: dict[str, Ending] = {}

    def update(self, status: Status) -> bool:
        """Show what has changed since the last call; returns True if anything has."""
        before = dict(self._states)
        for name, step in status.steps.items():
            if before.get(name) in ENDED:
                continue
            if name not in before:
                self._event("started", name, step.started)
            self._states[name] = step.state
            if step.state == "SUCCEEDED":
                summary = self._summary(status, name)
                # The gate's summary begins with its verdict.
                verdict = summary.partition(":")[0] if name == "gate" and ":" in summary else ""
                self._event("finished", name, step.ended, summary=summary, verdict=verdict)
            elif step.state == "FAILED":
                self.failure = failure_of(self._kfp, status)
                self._event("failed", name, step.ended, message=self.failure.message)
            elif step.state == "CANCELED":
                self._event("failed", name, step.ended, message="canceled")
        return self._states != before

    def _summary(self, status: Status, name: str) -> str:
        step = status.steps[name]
        if step.is_cached:
            return "from the cache"
        if (ending := ending_in(self._kfp.log(status.run.run_id, step) or "")) is None:
            return ""
        self.endings[name] = ending
        return ending.summary

    def _event(self, kind: str, step: str, at: datetime | None, **more: str) -> None:
        # KFP's times, so that a run that is followed late still shows the true durations.
        seconds = at.timestamp() if at else time.time()
        self._display.show({"kind": kind, "step": step, "time": seconds, **more})


class _Waiting:
    """Stopwatch for the step that waits for its pod."""

    def __init__(self) -> None:
        self._step = ""
        self._since = time.monotonic()
        self.said = ""

    def seconds(self, step: str) -> float:
        # monotonic(): a step of an hour must not seem stuck when the clock is set.
        if step != self._step:
            self._step, self._since, self.said = step, time.monotonic(), ""
        return time.monotonic() - self._since if step else 0.0


def follow(kfp: Kfp, run_id: str, display: Display, pace: Pace, on_step: Callable[[], None]) -> Outcome:
    """Show the steps of a run until it ends; `on_step` is called after each request that showed a change.

    Raises:
        ClusterAwayError: KFP was away for longer than `pace` allows; the run goes on.
    """
    shown = _Shown(kfp, display)
    waiting = _Waiting()
    answered = time.monotonic()
    while True:
        try:
            status = Status.of(kfp, run_id)
            answered = time.monotonic()
        except ClusterAwayError as error:
            # The run does not need this process, so a short outage is waited out.
            if time.monotonic() - answered > pace.away_s:
                raise ClusterAwayError(f"{error}; the run goes on, `gapgate runs` shows it later") from None
            time.sleep(pace.poll_s)
            continue
        if shown.update(status):
            on_step()
        if status.state in ENDED:
            failure = shown.failure or (failure_of(kfp, status) if status.state != "SUCCEEDED" else None)
            return Outcome(status, failure, is_shown=shown.failure is not None, endings=shown.endings)
        if (stuck := _stuck(kfp, status, display, waiting, pace)) is not None:
            return Outcome(status, stuck, is_shown=False, has_ended=False)
        time.sleep(pace.poll_s)


def mlflow_url(experiment: str, run_id: str) -> str:
    """URL of a run's page in MLflow; empty without MLFLOW_TRACKING_URI, before the run is there, or if it is away."""
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not address.startswith(("http://", "https://")):
        return ""
    from components.platform.tracking import mlflow_client

    with contextlib.suppress(TrackingError), mlflow_client.away_errors():
        client = mlflow_client.client()
        if found := client.get_experiment_by_name(experiment):
            query = f"tags.`gapgate.run` = '{run_id}'"
            for run in client.search_runs([found.experiment_id], query, max_results=1):
                return f"{address.rstrip('/')}/#/experiments/{found.experiment_id}/runs/{run.info.run_id}"
    return ""


def _stuck(kfp: Kfp, status: Status, display: Display, waiting: _Waiting, pace: Pace) -> Failure | None:
    """The failure of a step that has waited longer than `pace.pending_s`; None before that. A reason from Kubernetes is
    shown earlier, once."""
    step = status.waiting
    # Until the workflow controller takes a run up, and the persistence agent reports it, it has no steps.
    name = step.name if step else "" if status.steps else "pipeline"
    seconds = waiting.seconds(name)
    if not name or seconds < min(_ASK_AFTER_S, pace.pending_s):
        return None
    reason = waiting_reason(kfp, step) if step else None
    # The wait goes on: a node may be on its way, or a Secret be made.
    # Kubernetes' own words, in brackets at the end, change with each try.
    if reason and (known := reason.message.partition(" (")[0]) != waiting.said:
        waiting.said = known
        display.note(f"{name} waits: {reason.message}")
    if seconds < pace.pending_s:
        return None
    message = reason.message if reason else f"`kubectl -n {kfp.pod_namespace} get pods,events` says for what"
    if step is None:
        message = (
            "the workflow controller of Kubeflow Pipelines has not taken it up, or its persistence agent does not "
            f"report it (`kubectl -n {kfp.pod_namespace} rollout restart deployment/ml-pipeline-persistenceagent`); "
            + message
        )
    return Failure(name, f"has been waiting for {seconds:,.0f} s: {message}", reason.exit_code if reason else 1)
