"""The logs of a run's steps."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from gapgate.errors import ClusterError
from pipelines.kubeflow.client import Kfp
from pipelines.kubeflow.run_status import ENDED, Status
from pipelines.kubeflow.workflow import Step

_POLL_S = 2.0
# Lines of the launcher (klog), of Argo's executor (logfmt) and of KFP's executor, each with the JSON that may follow.
_OTHERS = re.compile(
    r"""
    ^(?: [IWEF]\d{4}\ \d\d:\d\d:\d\d\.\d+\ .*
       | \]\ Setting\ log\ level.*
       | time=\S+\ level=.*argo=true.*
       | \[KFP\ Executor\ .*
       | Error:\ exit\ status\ \d+
    )\n?
    (?: (?:\{\n)? (?:[ ]{2}.*\n)+ \}\n? )?
    """,
    re.MULTILINE | re.VERBOSE,
)


def read_log(kfp: Kfp, run_id: str, name: str = "", *, whole: bool = False, is_followed: bool = False) -> Iterator[str]:
    """The log of a step, piece by piece.

    Args:
        name: the step; empty: the one that failed, or else the last that has begun.
        whole: True to keep the lines of KFP's launcher and executor.
        is_followed: True to go on until the step has ended.

    Raises:
        ClusterError: the step has not begun, or its log is nowhere to be had.
    """
    status = Status.of(kfp, run_id)
    step = _chosen(kfp, status, name)
    shown = 0
    while True:
        # Asked before the log is read: a step that has ended writes no more.
        has_ended = step.state in ENDED or status.state in ENDED
        text = kfp.log(run_id, step)
        if text is None and (has_ended or not is_followed):
            raise ClusterError(_without_log(kfp, run_id, step))
        text = text or ""
        if not has_ended:
            text = text[: text.rfind("\n") + 1]  # the last line may be half of one
        if not whole:
            text = _OTHERS.sub("", text)
        # A second try begins a new log.
        yield text[shown:] if shown <= len(text) else text
        shown = len(text)
        if has_ended or not is_followed:
            return
        time.sleep(_POLL_S)
        status = Status.of(kfp, run_id)
        step = status.steps.get(step.name, step)


def _chosen(kfp: Kfp, status: Status, name: str) -> Step:
    begun = status.steps
    if not begun or (name and name not in begun):
        where = kfp.run_url(status.run.run_id)
        raise ClusterError(f"{name or 'no step'} of run {status.run.run_id} has not begun; {where} shows it")
    if name:
        return begun[name]
    # The dict has the order of the pipeline, so the last step that began is the newest.
    return next((step for step in begun.values() if step.state == "FAILED"), list(begun.values())[-1])


def _without_log(kfp: Kfp, run_id: str, step: Step) -> str:
    if step.is_cached:
        return f"{step.name} did not run: its result is from the cache of an earlier run"
    if step.is_waiting:
        return f"{step.name} has not begun: it waits; `gapgate runs --follow {run_id[:8]}` says for what"
    return f"{kfp.host} has no log of {step.name}; try {kfp.logs_command(run_id, step)}"
