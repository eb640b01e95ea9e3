"""Runs of the pipeline on this machine: the compiled graph under KFP's own local runner, without any service."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

from components.catalog import STEPS
from components.platform.run_context import DRAINED_VARIABLE, PARENT_VARIABLE, RunContext
from components.platform.tracking import mlflow_experiments, mlflow_runs
from components.platform.tracking.spool import Reader, Spool
from gapgate import artifacts
from gapgate.errors import GapgateError, StorageError, fault_of_machine, storage_errors
from gapgate.files import sync
from gapgate.process import fork_server, own_packages
from gapgate.process.descendants import children, kill_descendants
from gapgate.settings.sections import Settings
from gapgate.text import printable, redacted, shortened
from gapgate.variables import environment
from pipelines.display import Display
from pipelines.local.outputs import ARTIFACTS, outputs_of
from pipelines.local.result import (
    RESERVED_BYTES,
    SETTINGS,
    RunResult,
    failure_of,
    give_results,
    reserve,
    write_result,
)

LOG = "log.txt"
_SAID = re.compile(r" {4}\w")  # KFP indents what a step writes
_SEND_EVERY_S = 2.0
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # the sequences for colours (SGR, ECMA-48)
IMPORTED = [
    *(f"components.{name}" for name in STEPS),
    # What evaluate, register and package import where they need it: 2 s of processor time.
    "pyarrow.dataset",
    "sklearn.metrics",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
]
"""Modules that the steps share by forks of one server, in the order in which they are needed."""


def run_pipeline(settings: Settings, display: Display, *, in_containers: bool = False, title: str = "") -> RunResult:
    """Compile the pipeline, execute it in subprocesses or in containers, and show its progress; `title` is the name of
    the run in MLflow.

    Raises:
        StorageError: the workspace cannot be written.
        SettingsError: no Docker engine answers, or an image is not there.
        TrackingRefusedError: the MLflow experiment was deleted.
    """
    # First, so that the modules of the steps are imported while this process imports its own.
    with own_packages.first_in_children(), contextlib.nullcontext() if in_containers else fork_server.running(IMPORTED):
        mlflow_experiments.refuse_deleted_experiment(settings.tracking.experiment)
        context = RunContext.new(settings.tracking.experiment)
        with _runner(settings, context, in_containers) as runner:
            return _run(settings, context, display, runner, title)


def _run(settings: Settings, context: RunContext, display: Display, runner: Any, title: str) -> RunResult:
    with storage_errors(context.folder):
        context.folder.mkdir(parents=True)
    with context.alive():  # until the result is written: without both, it is taken for one that was killed
        with storage_errors(context.folder):
            artifacts.write_json(context.folder / SETTINGS, settings.model_dump(mode="json"))
            context.spool.mkdir()  # after the settings: a spool without them is that of a DVC stage, which has no end
            # Twice, since a registration may wait for it for days.
            artifacts.write_json(context.spool / SETTINGS, settings.model_dump(mode="json"))
            (context.folder / ARTIFACTS).mkdir()  # if Docker makes the folder for its mount, it belongs to root
            reserve(context).write_bytes(bytes(RESERVED_BYTES))
            # Some file systems take the blocks of a file only when it is written out (delayed allocation, as in ext4).
            sync(reserve(context))
        if title:
            Spool(context.spool, "run").tags({"mlflow.runName": title})
        context.export()
        # `_followed` sends for all steps, which then end without waiting for the server.
        os.environ[DRAINED_VARIABLE] = "1"
        os.environ[PARENT_VARIABLE] = str(os.getpid())
        return _worked(settings, context, display, runner)


def _worked(settings: Settings, context: RunContext, display: Display, runner: Any) -> RunResult:
    result, crash = RunResult(context), ""
    try:
        with display.live(context.name), _followed(context, display, result), _scratch(context):
            crash = _execute(settings, context, runner)
    except StorageError as error:
        result.failure = result.failure or failure_of(error)
    except KeyboardInterrupt:
        with contextlib.suppress(GapgateError):
            mlflow_runs.send_and_mark(context, "KILLED")
        is_trained = "model" in outputs_of(context)
        raise KeyboardInterrupt(
            "its trained model is used" if is_trained else "a training goes on from its last epoch"
        ) from None
    # From the disk: KFP raises when a step fails, and returns nothing of the steps before it.
    result.outputs = outputs_of(context)
    try:
        give_results(result)
    except StorageError as error:
        result.failure = result.failure or failure_of(error)
    # A step that was killed has reported no failure of its own.
    if result.failure is None and (crash or "certificate" not in result.outputs):
        result.failure = failure_of(crash or "the run ended without a certificate")
    result.tracking_notice = _close(context, succeeded=result.failure is None)
    write_result(result)
    return result


@contextlib.contextmanager
def _runner(settings: Settings, context: RunContext, in_containers: bool) -> Iterator[Any]:
    """KFP's local runner for the steps, in subprocesses or in containers."""
    from kfp import local

    if not in_containers:
        # KFP's images set it as well: with it a step imports what executes a component, 0.05 s of processor time, and
        # not the compiler and the clients too, 0.65 s (kfp 2.17.0). This process has imported kfp already.
        os.environ["_KFP_RUNTIME"] = "true"
        try:
            yield local.SubprocessRunner(use_venv=False)
        finally:
            del os.environ["_KFP_RUNTIME"]
        return
    from pipelines.local.docker_runner import containers

    with containers(settings, context) as runner:
        yield runner


def _execute(settings: Settings, context: RunContext, runner: Any) -> str:
    """Run the compiled graph; returns KFP's error message, or an empty string if the graph ended well.

    Raises:
        StorageError: the log, or what KFP keeps beside it, cannot be written.
    """
    from kfp import compiler, components, local

    from pipelines.container_images import built, kind_of
    from pipelines.graph import arguments, training_pipeline

    compiled = context.folder / "pipeline.yaml"
    with (
        storage_errors(context.folder),
        # Line by line, so that the log of a killed run is whole.
        (context.folder / LOG).open("w", buffering=1) as log,
        contextlib.redirect_stdout(_Uncoloured(log)),
        warnings.catch_warnings(),
    ):
        # KFP warns of any image that has no "python" in its name, and of its own use of deprecated modules.
        warnings.simplefilter("ignore")
        compiler.Compiler().compile(
            training_pipeline(lambda task: task.set_container_image(built(kind_of(task.name)))), str(compiled)
        )
        local.init(runner, pipeline_root=str(context.folder / ARTIFACTS), raise_on_error=True)
        try:
            components.load_component_from_file(str(compiled))(**arguments(settings))
        except RuntimeError as error:
            said = " ".join(_COLOURS.sub("", str(error)).split())
            return f"{said} {_last_words(context)}".strip()
    return ""


def _last_words(context: RunContext) -> str:
    """The last line that a step wrote into the log, where KFP indents it: the reason of one that died without a word
    of its own, such as one that was refused memory."""
    said = [line for line in (context.folder / LOG).read_text(errors="replace").splitlines() if _SAID.match(line)]
    return f"Its last line: {printable(said[-1].strip())}" if said else ""


class _Uncoloured(io.TextIOBase):
    """A text file without the colours that KFP gives its messages, also where they go to a file."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(_COLOURS.sub("", text))

    def flush(self) -> None:
        self._file.flush()


@contextlib.contextmanager
def _followed(context: RunContext, display: Display, result: RunResult) -> Iterator[None]:
    """Show the events of the steps and send them to MLflow while the block runs, the last event included."""
    stop = threading.Event()
    reader = Reader(context.spool)

    def show() -> None:
        ended = False
        while not ended:
            # Asked before the read: the last round reads what the steps wrote before `stop` was set.
            ended = stop.wait(0.1)
            for event in reader.read():
                display.show(event)
                if event["kind"] == "failed":
                    result.failure = event

    def send() -> None:
        # In a thread of its own: a call to a server that is away takes 15 s or more, and the display must not wait.
        while not stop.wait(_SEND_EVERY_S):
            # Whatever it is, `_close` meets it again at the end of the run, and says it.
            with contextlib.suppress(Exception):
                mlflow_runs.send(context)

    threads = [threading.Thread(target=show, daemon=True), threading.Thread(target=send, daemon=True)]
    # As Ctrl-C does, so that the `finally` block below runs; also where SIGINT is ignored, as after `nohup` or `&`.
    # Python takes signals in the main thread alone; a caller in another one has it for itself.
    is_main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, _interrupted) if is_main else None
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        if is_main:
            signal.signal(signal.SIGTERM, previous)


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _scratch(context: RunContext) -> Iterator[None]:
    """Keep all temporary files of the block and its steps in one folder, which is removed with what works in it; KFP's
    runner leaves two folders a step (kfp 2.17.0)."""
    before, others = tempfile.tempdir, children(os.getpid())
    tempfile.tempdir = context.make_scratch()
    try:
        with environment(TMPDIR=tempfile.tempdir):
            yield
    finally:
        # After an interrupt the step is still at work: KFP does not end it.
        kill_descendants(os.getpid(), others)
        tempfile.tempdir = before
        context.remove_scratch()


def _close(context: RunContext, *, succeeded: bool) -> str:
    try:
        mlflow_runs.finish(context, succeeded=succeeded)
    except GapgateError as error:
        return str(error)
    except Exception as error:  # of MLflow or its database: the result is written all the same
        said = fault_of_machine(error) or shortened(printable(redacted(f"{type(error).__name__}: {error}")), 200)
        return f"the tracking store fails ({said}); `gapgate sync` sends the rest later"
    return ""
