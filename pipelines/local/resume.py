"""Runs that have not ended as they should: what was not sent, not registered or not closed, and doing it later."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.catalog import STEPS
from components.execute import execute
from components.platform.run_context import DRAINED_VARIABLE, RunContext
from components.platform.tracking import mlflow_runs
from components.platform.tracking.spool import Reader, end_lines
from components.platform.workspace import runs_dir
from gapgate import artifacts, summed_json
from gapgate.errors import ArtifactError, GapgateError, RegistryError, TrackingError
from pipelines.local.outputs import outputs_of
from pipelines.local.result import SETTINGS, RunResult, failure_of, give_results, write_result


@dataclass(frozen=True, slots=True)
class Settled:
    """Outcome of a run that was waiting."""

    name: str
    said: str
    is_done: bool
    """False if something of it waits still."""


def pending_runs() -> list[RunContext]:
    """Runs of which something waits, oldest first: reports, a registration, or the end of a run that was killed; runs
    at work are left out."""
    names = sorted(folder.parent.name for folder in runs_dir().glob("*/spool"))
    return [context for context in map(RunContext, names) if not context.is_alive() and _waits(context)]


def close_killed() -> list[str]:
    """Remove the temporary files of this workspace's runs whose process is gone, and close their MLflow runs as KILLED;
    returns the names of those that were closed.

    Raises:
        TrackingError: the server does not answer; call again later.
    """
    closed = []
    for context in pending_runs():
        context.remove_scratch()
        # A run that never reached the server has nothing to close; a stage of DVC has no settings, and no end either.
        is_ours = (context.folder / SETTINGS).exists() and not (context.folder / "result.json").exists()
        if is_ours and (context.spool / mlflow_runs.STATE).exists():
            settle(context)
            closed.append(context.name)
    return closed


def settle_all() -> Iterator[Settled]:
    """Do what waits of each run. One that fails, or whose files are damaged, keeps nobody else waiting."""
    for context in pending_runs():
        aside: list[str] = []
        try:
            said, is_done = settle(context, aside), True
        except GapgateError as error:
            said, is_done = str(error), False
        yield Settled(context.name, "; ".join([said, *aside]), is_done)


def settle(context: RunContext, aside: list[str] | None = None) -> str:
    """Send a run's spool, register and package its model if that has failed, and return what was done as text. A
    damaged file gets another name, and a line in `aside`.

    Raises:
        TrackingError: the server still does not answer.
    """
    aside = [] if aside is None else aside
    context.remove_scratch()
    has_result = (context.folder / "result.json").exists()
    result = _read(context.folder / "result.json", ("exit_code",), aside)
    has_settings = (context.folder / SETTINGS).exists()
    sha256 = result.get("settings", "")
    # The run wrote them twice (`runner._run`), so one damaged copy costs nothing.
    settings = _read(context.folder / SETTINGS, ("tracking",), aside, sha256) or _read(
        context.spool / SETTINGS, ("tracking",), aside, sha256
    )
    _read(context.spool / mlflow_runs.STATE, ("run_id", "experiment_id", "offsets"), aside)
    aside += [f"{context.spool / name} has damaged lines, which are left out" for name in _damaged(context)]
    if settings:
        context = RunContext(context.name, settings["tracking"]["experiment"])
    # Of one whose result is damaged, what is there tells whether anything is left to do.
    if _unregistered(result) or (has_result and not result and "certificate" in outputs_of(context)):
        return _register(context, settings)
    # A stage of DVC belongs to no `gapgate run` and has no result; a run without one was killed.
    # A model that did not pass (3) is a result.
    is_whole = not has_settings or result.get("exit_code") in (0, 3)
    mlflow_runs.send_and_mark(context, "FINISHED" if is_whole else "FAILED" if has_result else "KILLED")
    return "sent"


def _register(context: RunContext, settings: dict[str, Any]) -> str:
    if lack := "its settings are damaged" if not settings else _lack(context):
        reason = f"its model cannot be registered, since {lack}; run again"
        mark_unregistrable(context, reason)
        return f"sent, but {reason}"
    resume_registration(context, settings)
    return "sent, registered"


def resume_registration(context: RunContext, settings: Mapping[str, Any]) -> RunResult:
    """Register and package a run that ended while the tracking server was away; `settings` are those of the run.

    Raises:
        TrackingError: the server still does not answer.
    """
    context.export()
    os.environ[DRAINED_VARIABLE] = "1"  # else each step sends the spool too, and closes the run
    outputs = outputs_of(context)
    # The folder of the pipeline run that KFP made; `outputs_of` looks for the new artifacts there.
    root = outputs["certificate"].parent.parent
    for name in ("register", "package"):
        step = STEPS[name]
        passed = artifacts.read_json(outputs["certificate"] / "certificate.json")["verdict"] == "pass"
        if step.output in outputs or (name == "package" and not passed):
            continue
        inputs = {kind: str(outputs[kind]) for kind in step.inputs}
        execute(name, json.dumps(settings.get(step.section, {})), inputs, str(root / name / step.output))
        outputs = outputs_of(context)
    result = RunResult(context, outputs=outputs)
    give_results(result)
    mlflow_runs.finish(context, succeeded=True)
    write_result(result)
    return result


def mark_unregistrable(context: RunContext, reason: str) -> None:
    """End a run whose model waits to be registered and cannot be any more.

    Raises:
        TrackingError: the server does not answer.
    """
    mlflow_runs.finish(context, succeeded=False)
    path = context.folder / "result.json"
    result = summed_json.read(path) if path.exists() else {}
    failure = failure_of(RegistryError(reason))
    summed_json.write(path, {"exit_code": failure["exit_code"], "outputs": {}, **result, "failure": failure})


def _lack(context: RunContext) -> str:
    """Name what the registration of a run's model needs and will never get; empty if all is there."""
    outputs, register, package = outputs_of(context), STEPS["register"], STEPS["package"]
    needed = {*register.inputs, *package.inputs} - {register.output}
    if needed - outputs.keys():
        return "its artifacts are gone"
    for kind in sorted(needed):
        try:
            artifacts.load(outputs[kind], kind)
        except ArtifactError as error:
            return str(error)
    return ""


def _waits(context: RunContext) -> bool:
    try:
        return not mlflow_runs.is_sent(context) or _unregistered(summed_json.read(context.folder / "result.json"))
    except (ArtifactError, KeyError, TypeError, AttributeError):  # a damaged file
        return True


def _unregistered(result: dict[str, Any]) -> bool:
    return (result.get("failure") or {}).get("exit_code") == TrackingError.exit_code


def _read(path: Path, names: tuple[str, ...], aside: list[str], sha256: str = "") -> dict[str, Any]:
    """The content of a JSON file with the entries `names`, and with this sha256 where one is given; empty if there is
    none, or if it is damaged."""
    if not path.exists():
        return {}
    with suppress(ArtifactError, UnicodeDecodeError):
        found = summed_json.read(path)
        if set(names) <= set(found) and sha256 in ("", artifacts.sha256_file(path)):
            return found
    damaged = path.with_name(f"{path.name}.damaged")
    path.replace(damaged)
    aside.append(f"{path} was damaged and is set aside as {damaged.name}")
    return {}


def _damaged(context: RunContext) -> list[str]:
    end_lines(context.spool)
    reader = Reader(context.spool)
    for _ in reader.read():
        pass
    return sorted(reader.damaged)
