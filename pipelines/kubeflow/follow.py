"""Following a run on a cluster to its end, step by step."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gapgate.errors import ClusterAwayError, TrackingError
from pipelines.display import Display
from pipelines.kubeflow.client import Kfp
from pipelines.kubeflow.run_status import ENDED, Failure, failure_of, steps_of, waiting_reason, waiting_step

_ASK_AFTER_S = 20.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Intervals and timeouts of following a run, in seconds."""

    poll_s: float = 5.0
    """Seconds between two requests for the run."""
    pending_s: float = 600.0
    """Seconds that a step may wait for a node or an image."""
    away_s: float = 300.0
    """Seconds that KFP may be away."""


@dataclass(slots=True)
class Outcome:
    """End of a run, or the reason why it is no longer followed."""

    run: Any
    failure: Failure | None = None
    is_shown: bool = True
    """True if the failure was shown already, as the end of a step."""
    has_ended: bool = True


class _Shown:
    """States of the steps that the display has shown."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._states: dict[str, str] = {}
        self.failure: Failure | None = None

    def update(self, kfp: Kfp, run: Any) -> bool:
        """Show what has changed since the last call; returns True if anything has."""
        before = dict(self._states)
        for name, step in steps_of(run).items():
            if before.get(name) in ENDED:
                continue
            if name not in before:
                self._event("started", name, step.started)
            self._states[name] = step.state
            if step.state == "SUCCEEDED":
                self._event("finished", name, step.ended, summary="")
            elif step.state == "FAILED":
                self.failure = failure_of(kfp, run)
                self._event("failed", name, step.ended, message=self.failure.message)
            elif step.state == "CANCELED":
                self._event("failed", name, step.ended, message="canceled")
        return self._states != before

    def _event(self, kind: str, step: str, at: datetime | None, **more: str) -> None:
        # KFP's times, so that a run that is followed late still shows the true durations.
        seconds = at.timestamp() if at else time.time()
        self._display.show({"kind": kind, "step": step, "time": seconds, **more})


class _Waiting:
    """Stopwatch for the step that waits for its pod."""

    def __init__(self) -> None:
        self._step = ""
        self._since = time.monotonic()
        self.is_said = False

    def seconds(self, step: str) -> float:
        # monotonic(): a step of an hour must not seem stuck when the clock is set.
        if step != self._step:
            self._step, self._since, self.is_said = step, time.monotonic(), False
        return time.monotonic() - self._since if step else 0.0


def follow(kfp: Kfp, run_id: str, display: Display, pace: Pace, on_step: Callable[[], None]) -> Outcome:
    """Show the steps of a run until it ends; `on_step` is called after each request that showed a change.

    Raises:
        ClusterAwayError: KFP was away for longer than `pace` allows; the run goes on.
    """
    shown = _Shown(display)
    waiting = _Waiting()
    answered = time.monotonic()
    while True:
        try:
            run = kfp.run(run_id)
            answered = time.monotonic()
        except ClusterAwayError as error:
            # The run does not need this process, so a short outage is waited out.
            if time.monotonic() - answered > pace.away_s:
                raise ClusterAwayError(f"{error}; the run goes on, `gapgate runs` shows it later") from None
            time.sleep(pace.poll_s)
            continue
        if shown.update(kfp, run):
            on_step()
        if run.state in ENDED:
            failure = shown.failure or (failure_of(kfp, run) if run.state != "SUCCEEDED" else None)
            return Outcome(run, failure, is_shown=shown.failure is not None)
        if (stuck := _stuck(kfp, run, display, waiting, pace)) is not None:
            return Outcome(run, stuck, is_shown=False, has_ended=False)
        time.sleep(pace.poll_s)


def mlflow_url(experiment: str, run_id: str) -> str:
    """URL of a run's page in MLflow; empty without MLFLOW_TRACKING_URI, before the run is there, or if it is away."""
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not address.startswith(("http://", "https://")):
        return ""
    from components.platform import mlflow_runs

    with contextlib.suppress(TrackingError), mlflow_runs.away_errors():
        client = mlflow_runs.client()
        if found := client.get_experiment_by_name(experiment):
            query = f"tags.`gapgate.run` = '{run_id}'"
            for run in client.search_runs([found.experiment_id], query, max_results=1):
                return f"{address.rstrip('/')}/#/experiments/{found.experiment_id}/runs/{run.info.run_id}"
    return ""


def _stuck(kfp: Kfp, run: Any, display: Display, waiting: _Waiting, pace: Pace) -> Failure | None:
    """The failure of a step that has waited longer than `pace.pending_s`; None before that. A reason from Kubernetes is
    shown earlier, once."""
    # Until the workflow controller takes a run up, it has no steps and is PENDING or has no state.
    step = waiting_step(run) or ("pipeline" if run.state in (None, "PENDING") and not steps_of(run) else "")
    seconds = waiting.seconds(step)
    if not step or seconds < min(_ASK_AFTER_S, pace.pending_s):
        return None
    reason = waiting_reason(kfp, run, step) if step != "pipeline" else None
    if reason and not waiting.is_said:
        waiting.is_said = True
        display.note(f"{step} waits: {reason.message}")
    # The reason is shown after 20 s, but the wait goes on: a node may be on its way, or a Secret be made.
    if seconds < pace.pending_s:
        return None
    message = reason.message if reason else f"`kubectl -n {kfp.pod_namespace} get pods,events` says for what"
    if step == "pipeline" and not reason:
        message = "the workflow controller of Kubeflow Pipelines has not taken it up; " + message
    return Failure(step, f"has been waiting for {seconds:,.0f} s: {message}", reason.exit_code if reason else 1)
