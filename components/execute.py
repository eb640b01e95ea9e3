"""Running one step, wherever it runs: from the command line, as a DVC stage, or inside a KFP component."""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.catalog import STEPS
from components.facts import Facts
from components.platform import credentials
from components.platform.run_context import DRAINED_VARIABLE, EXPERIMENT_VARIABLE, PARENT_VARIABLE, RunContext
from components.platform.step_log import StepLog
from components.platform.tracking.mlflow_tables import table_tag
from components.platform.tracking.spool import Spool
from components.tries import AtOnce, Patient
from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.errors import GapgateError, SettingsError, TrackingError, fault_of_machine
from gapgate.process import fork_server
from gapgate.process.descendants import end_with
from gapgate.settings import parse
from gapgate.settings.base import Section
from gapgate.settings.sections import DataSettings
from gapgate.tracking import NullTracker, Tracker

if TYPE_CHECKING:
    from components.platform.tracking.mlflow_runs import Status

_SEND_EVERY_S = 30.0


def execute(
    name: str,
    settings: str,
    inputs: Mapping[str, str],
    output: str,
    experiment: str = "",
    tensorboard: bool = False,
    show: Callable[[Facts], None] = lambda facts: None,
) -> Artifact:
    """Run the step `name` and write its artifact to the folder `output`.

    Args:
        settings: the step's section of the settings, as JSON.
        inputs: kind of artifact → its folder.
        experiment: MLflow experiment; empty: the one that the environment names.
        tensorboard: True to write event files for TensorBoard too.
        show: called with the facts of the step when it has ended well.

    Raises:
        GapgateError: whatever the step says to the user, after it is written to the run's spool.
    """
    return _execute(name, settings, inputs, Path(output), experiment, tensorboard, AtOnce(), show)


def execute_in_pipeline(
    name: str,
    settings: str,
    inputs: Mapping[str, str],
    output: str,
    experiment: str = "",
    tensorboard: bool = False,
) -> Artifact:
    """`execute` for a KFP component. In a pod a passing fault is tried again for some minutes, and an error ends the
    process with its exit code; the step's log has its message, so no traceback follows."""
    # On one machine: there is no run, or its parent sends the spool. In a pod there is a run and no parent.
    if RunContext.current() is None or os.environ.get(DRAINED_VARIABLE):
        if (context := RunContext.current()) and (parent := os.environ.get(PARENT_VARIABLE)):
            end_with(int(parent), context.remove_scratch)
        if not (fork_server.is_there() and _forked(name, settings, inputs, output, experiment, tensorboard)):
            execute(name, settings, inputs, output, experiment, tensorboard)
        return Artifact(Path(output), artifacts.read_manifest(Path(output)))
    try:
        tries = Patient.from_environment()
    except SettingsError as error:
        StepLog(name).show({"kind": "failed", "message": str(error), "exit_code": error.exit_code})
        sys.exit(error.exit_code)
    try:
        return _execute(name, settings, inputs, Path(output), experiment, tensorboard, tries)
    except GapgateError as error:
        sys.exit(tries.exit_code(error))


def _forked(name: str, *arguments: Any) -> bool:
    """`execute` in a fork of the run's server, which has imported the step; False if there is no server any more.

    Ends this process where the step fails.
    """
    names = ("name", "settings", "inputs", "output", "experiment", "tensorboard")
    try:
        fork_server.call(
            f"{__name__}:execute", dict(zip(names, (name, *arguments), strict=True)), needs=f"components.{name}"
        )
    except OSError:
        return False
    except fork_server.CallError as error:
        # Python prints the text and ends with code 1, which KFP's runner takes for the failure of the step.
        sys.exit(f"{name}: {error}")
    return True


def _execute(
    name: str,
    settings: str,
    inputs: Mapping[str, str],
    output: Path,
    experiment: str,
    tensorboard: bool,
    tries: AtOnce,
    show: Callable[[Facts], None] = lambda facts: None,
) -> Artifact:
    # At its end Python searches all that torch or MLflow made for cycles, 0.4 s; the system frees the memory anyway.
    atexit.register(gc.freeze)
    if experiment:
        os.environ[EXPERIMENT_VARIABLE] = experiment
    is_in_pipeline = RunContext.current() is not None
    context = RunContext.current() or _context_of(name, inputs)
    if context is None:
        section = _parsed(name, settings)
        artifact, facts = make(name, section, load(inputs), output, NullTracker())
        show(facts)
        return artifact
    if not is_in_pipeline:
        from components.platform.tracking import mlflow_experiments

        mlflow_experiments.refuse_deleted_experiment(context.experiment)
    # Modules that the step calls (`artifacts.create`, `register`) read the run from the environment.
    context.export()
    is_alone = not os.environ.get(DRAINED_VARIABLE)
    # Where the step is alone it may be a pod, whose disk is gone before a later step could upload a file.
    # For the same reason it shows in its log what the pipeline's display shows elsewhere.
    log = StepLog(name).show if is_alone else lambda event: None
    spool = _spool(tensorboard)(context.spool, name, keep_files=is_alone, show=log)
    if not is_alone:
        return _report(name, settings, inputs, output, spool, tries)
    with _sent(context):
        try:
            begins_run = name == "train" and not is_in_pipeline
            artifact = _report(name, settings, inputs, output, spool, tries, begins_run=begins_run)
        except BaseException as error:
            # SystemExit: cancelled, and Kubernetes kills the pod within seconds.
            ended = AtOnce() if isinstance(error, SystemExit) else tries
            _send_rest(context, "KILLED" if isinstance(error, SystemExit) else "FAILED", spool, ended)
            raise
        _send_rest(context, _outcome(name, artifact, context), spool, tries, must_arrive=is_in_pipeline)
    return artifact


def _spool(tensorboard: bool) -> type[Spool]:
    if not tensorboard:
        return Spool
    from components.platform.tracking.tensorboard import TensorBoardSpool  # 0.6 s

    return TensorBoardSpool


def _report(
    name: str,
    settings: str,
    inputs: Mapping[str, str],
    output: Path,
    spool: Spool,
    tries: AtOnce,
    *,
    begins_run: bool = False,
) -> Artifact:
    step = STEPS[name]
    spool.started()
    try:
        section = _parsed(name, settings)
        spool.params({f"{step.section}.{key}": value for key, value in section.model_dump(mode="json").items()})
        found = load(inputs)
        if begins_run:
            _tell_of_data(found, spool)
        artifact, facts = tries.until_done(lambda: make(name, section, found, output, spool), spool)
        spool.finished(facts.summary, facts.details, facts.notes, facts.verdict)
        return artifact
    except GapgateError as error:
        spool.failed(str(error), tries.exit_code(error), error=type(error).__name__)
        raise
    except Exception as error:
        if fault := fault_of_machine(error):
            spool.failed(str(fault), fault.exit_code, error=type(fault).__name__)
            raise fault from error
        # A fault of the code: the traceback goes with it.
        spool.failed(f"{type(error).__name__}: {error}", 1, traceback.format_exc())
        raise


def _parsed(name: str, settings: str) -> Section:
    """Settings of a step; the credentials in the URL of a repository go elsewhere."""
    step = STEPS[name]
    section = parse(step.settings, json.loads(settings), step.section)
    return credentials.taken_from(section) if isinstance(section, DataSettings) else section


def load(inputs: Mapping[str, str]) -> dict[str, Artifact]:
    """The artifacts in folders (kind → path), each checked file by file.

    Raises:
        ArtifactError: one of them is incomplete, was changed, or is of another kind.
    """
    return {kind: artifacts.load(Path(path), kind, verify_trees=True) for kind, path in inputs.items()}


def make(
    name: str, settings: Section, inputs: Mapping[str, Artifact], output: Path, tracker: Tracker
) -> tuple[Artifact, Facts]:
    """Make the artifact of the step `name` at `output`; returns it with the step's facts.

    Raises:
        GapgateError: whatever the step says to the user.
    """
    step = STEPS[name]
    with artifacts.create(
        output,
        kind=step.output,
        step=name,
        settings=settings.model_dump(mode="json"),
        inputs=inputs,
        trees=step.trees,
    ) as folder:
        # By name, so that a step without torch never imports the module that needs it.
        facts: Facts = importlib.import_module(f"components.{name}").run(settings, inputs, folder, tracker)
    # `create` has just hashed every file; `artifacts.load` would read and hash them all again.
    artifact = Artifact(output, artifacts.read_manifest(output))
    # After the rename: checkpoints that go earlier could not resume a step whose disk was full at the end.
    facts.when_complete()
    _tell(artifact, facts, tracker)
    return artifact, facts


def _tell(artifact: Artifact, facts: Facts, tracker: Tracker) -> None:
    """Report the facts about a complete artifact."""
    tags = {f"{artifact.manifest.kind}.digest": artifact.digest, **facts.tags}
    if facts.params:
        tracker.params(facts.params)
    for file, place in [*facts.files.items(), *facts.tables.items()]:
        tracker.file(artifact.path / file, place)
    if facts.tables:
        tags |= table_tag(*(f"{place}/{Path(file).name}" for file, place in facts.tables.items()))
    tracker.tags(tags)
    for file, key in facts.images.items():
        tracker.image(artifact.path / file, key)
    if facts.data and isinstance(tracker, Spool):
        tracker.data(facts.data.source, facts.data.digest, facts.data.num_images, facts.data.classes)


def _tell_of_data(inputs: Mapping[str, Artifact], tracker: Tracker) -> None:
    """Report the steps before a training that DVC began: they belong to no run, since many runs share them."""
    behind = artifacts.lineage(inputs)
    for step in STEPS.values():
        if step.output in behind and step.output not in ("model", "evaluation"):
            settings = behind[step.output]["settings"]
            tracker.params({f"{step.section}.{key}": value for key, value in settings.items()})
    for kind in ("splits", "policy"):
        described = importlib.import_module(f"components.{inputs[kind].manifest.step}").describe(inputs[kind].path)
        _tell(inputs[kind], described, tracker)


def _context_of(name: str, inputs: Mapping[str, str]) -> RunContext | None:
    """The run of a step that no pipeline started, such as a DVC stage: a training begins a run, what is made from its
    model belongs to that run, and the steps before it belong to none, since many runs share them."""
    if name == "train":
        return RunContext.new()
    # Only the manifests: `load` checks every file afterwards.
    runs = (artifacts.read_manifest(Path(path)).run for path in inputs.values())
    return next((RunContext(run) for run in runs if run), None)


def _outcome(name: str, artifact: Artifact, context: RunContext) -> Status:
    """Status of the MLflow run after this step."""
    if name == "register":
        # No further step follows a model that did not pass: `package` is behind the gate. That is a result, no failure.
        if artifact.read_json("receipt.json")["verdict"] != "pass":
            return "FINISHED"
        # On a cluster none follows a known model either; elsewhere `package` ends the run once more.
        return "FINISHED" if context.decision.get("known_from") else "RUNNING"
    return "FINISHED" if name == "package" else "RUNNING"


@contextmanager
def _sent(context: RunContext) -> Iterator[None]:
    """Send the spool to MLflow while the block runs, and let SIGTERM end the block by an exception. Only for a step
    whose spool no parent process sends."""
    from components.platform.tracking import mlflow_closing, mlflow_runs

    stop = threading.Event()

    def send() -> None:
        with suppress(TrackingError):
            mlflow_closing.end_lost()
        while not stop.wait(_SEND_EVERY_S):
            with suppress(TrackingError):
                mlflow_runs.send(context)

    thread = threading.Thread(target=send, daemon=True)
    # Kubernetes sends a cancelled pod SIGTERM, whose default action ends the process at once; after `sys.exit`,
    # `_execute` closes the MLflow run. KFP's launcher gets the signal too, and the container ends with it (KFP 2.17,
    # Argo 4.0): where that is too early, `end_lost` closes the run.
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        signal.signal(signal.SIGTERM, previous)


def _send_rest(context: RunContext, status: Status, spool: Spool, tries: AtOnce, *, must_arrive: bool = False) -> None:
    """Send the rest of the spool and give the MLflow run its status.

    Raises:
        TrackingError: `must_arrive` is set, and the server is away after the last step, or refuses what is sent.
    """
    from components.platform.tracking import mlflow_runs

    try:
        # While the run goes on, the next step sends what is left.
        once = AtOnce() if status == "RUNNING" else tries
        once.until_done(lambda: mlflow_runs.send_and_mark(context, status), spool)
    except TrackingError as error:
        if must_arrive and (status == "FINISHED" or not error.is_passing):
            spool.failed(str(error), tries.exit_code(error), error=type(error).__name__)
            raise
        print(error)
