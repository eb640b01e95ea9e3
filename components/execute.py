"""Running one step, wherever it runs: from the command line, as a DVC stage, or inside a KFP component."""

from __future__ import annotations

import importlib
import json
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from components.catalog import STEPS
from components.platform.context import DRAINED_VARIABLE, EXPERIMENT_VARIABLE, RunContext
from components.platform.spool import Spool
from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.errors import GapgateError, TrackingError
from gapgate.settings import parse
from gapgate.tracking import NullTracker, Tracker

if TYPE_CHECKING:
    from gapgate.section import Section


def execute(name: str, settings: str, inputs: Mapping[str, str], output: str, experiment: str = "") -> Artifact:
    """Run the step `name` with its settings (JSON) on artifact folders (kind → path); the result is at `output`, and
    what it reports in the MLflow experiment, by default the one that the environment names.

    Raises:
        GapgateError: whatever the step says to the user, after it is written to the run's spool.
    """
    step = STEPS[name]
    if experiment:
        os.environ[EXPERIMENT_VARIABLE] = experiment
    context = RunContext.current() or _context_of(name, inputs)
    if context is None:
        section = parse(step.settings, json.loads(settings), step.section)
        return _run(name, section, inputs, Path(output), NullTracker())
    context.export()
    is_alone = not os.environ.get(DRAINED_VARIABLE)
    spool = Spool(context.spool, name, keep_files=is_alone)
    spool.started()
    artifact = None
    try:
        section = parse(step.settings, json.loads(settings), step.section)
        spool.params({f"{step.section}.{key}": value for key, value in section.model_dump(mode="json").items()})
        artifact = _run(name, section, inputs, Path(output), spool)
        spool.finished(_module(name).describe(artifact))
        return artifact
    except GapgateError as error:
        spool.failed(str(error), error.exit_code)
        raise
    except Exception as error:
        spool.failed(f"{type(error).__name__}: {error}", 1, traceback.format_exc())
        raise
    finally:
        if is_alone:
            _send(context, succeeded=_outcome(name, artifact))


def _run(name: str, settings: Section, inputs: Mapping[str, str], output: Path, tracker: Tracker) -> Artifact:
    loaded = {kind: artifacts.load(Path(path), kind, verify_trees=True) for kind, path in inputs.items()}
    artifact: Artifact = _module(name).run(settings, loaded, output, tracker)
    return artifact


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"components.{name}")


def _context_of(name: str, inputs: Mapping[str, str]) -> RunContext | None:
    """Outside a pipeline run (as a DVC stage), a training begins a run and what is made from its model belongs to it;
    the steps before it are shared by many runs and belong to none."""
    if name == "train":
        return RunContext.new()
    runs = (artifacts.load(Path(path), kind).manifest.run for kind, path in inputs.items())
    return next((RunContext(run) for run in runs if run), None)


def _outcome(name: str, artifact: Artifact | None) -> bool | None:
    """Whether the run ends well with this step, or badly; None where it goes on."""
    if artifact is None:
        return False
    if name == "register" and artifact.read_json("receipt.json")["verdict"] != "pass":
        return False
    return True if name == "package" else None


def _send(context: RunContext, succeeded: bool | None) -> None:
    """Send the spool, and close the MLflow run where it ends; a server that is away gets it later."""
    from components.platform import tracking

    try:
        if succeeded is None:
            tracking.send(context)
        else:
            tracking.finish(context, succeeded=succeeded)
    except TrackingError as error:
        print(error)
