"""`gapgate.run`: the whole pipeline, called from Python."""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal

from gapgate import artifacts, errors
from gapgate.text import shortened

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from components.platform.tracking.spool import Event
    from pipelines.local.result import RunResult

_one = threading.Lock()
"""A run has the process's environment and standard output for itself."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured figure with its interval."""

    value: float
    """Measured value."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of the gate."""

    name: str
    """Setting with its limit, such as `max_gap_points`."""
    verdict: Literal["pass", "fail", "undecided"]
    """Its own verdict; one that does not pass stops the model."""
    reason: str
    """Figure, limit and what would decide, in one line."""


@dataclass(frozen=True, slots=True)
class Result:
    """Result of a run."""

    name: str
    """Name of the run, and of its folder in the workspace."""
    verdict: Literal["pass", "fail", "undecided"]
    """The gate's verdict on the model."""
    exit_code: int
    """Exit code of `gapgate run`: 0 the model passed, 3 it did not."""
    train: Figure
    """Accuracy on the training images, a fraction, without augmentation."""
    val: Figure
    """Accuracy on the validation images, a fraction."""
    test: Figure
    """Accuracy on the test images, a fraction; of data judged by cross-validation, on the images held out."""
    gap: Figure
    """Train minus test, in percentage points."""
    confidence_level: float
    """Confidence level of the intervals, a fraction."""
    checks: tuple[Check, ...]
    """Every check of the gate, in its order."""
    model: str
    """Name of the registered model."""
    version: str
    """Its version; `gapgate.load` takes it where the verdict is `pass`."""
    alias: str
    """`champion`, `challenger`, or empty: the version has none."""
    receipt: str
    """Digest of the receipt, `sha256:…`, which every prediction of this version carries."""
    report: Path
    """The report, an HTML file."""
    bento: Path | None
    """The package, a `.bento` file; None where the model did not pass."""
    run_id: str
    """Id of the MLflow run."""
    notice: str
    """Why something has not reached the tracking server; empty: all has."""

    @property
    def passed(self) -> bool:
        """True if the verdict is `pass`."""
        return self.verdict == "pass"


def run(
    source: str | os.PathLike[str] | None = None,
    *,
    settings: Mapping[str, object] | None = None,
    params: str | os.PathLike[str] | None = None,
    name: str = "",
    experiment: str = "",
    show: Callable[[str], object] | None = None,
) -> Result:
    """Run the whole pipeline on this machine, as `gapgate run` does, and return what became of it.

    A model that the gate does not pass is a result and raises nothing. Runs of one process wait for each other.

    Args:
        source: a folder of class folders, a table, IDX, CIFAR or NumPy files, `"digits"` or `"shapes"`; None: what
            `data.dvc` pins.
        settings: single settings by name, `{"train.epochs": 3}`, over those of the file.
        params: a settings file; None: `params.yaml` where there is one, else the defaults.
        name: name of the run in MLflow; empty: its time.
        experiment: MLflow experiment of the run; empty: that of the settings.
        show: called with a line for each step that ended, such as `print`. Where it raises, a `RuntimeWarning` says
            so, and the run goes on without it.

    Raises:
        SettingsError: a setting is unknown or out of range, or an argument of another type.
        DataError: the source is missing, empty, inconsistent or too small.
        TrackingError: the tracking server is away; `gapgate sync` registers the model later.
        GapgateError: another mistake or lack, as the command says it in one line.
        RuntimeError: a fault of a step, with its traceback.
    """
    # Before anything else has a name: `locals()` holds the arguments alone.
    _check_types(locals())
    from pipelines.settings import settings_here, with_experiment, with_source

    # As JSON, which is YAML as well: the text "3" stays a text.
    values = [f"{setting}={json.dumps(value, default=str)}" for setting, value in (settings or {}).items()]
    asked = settings_here(Path(params) if params is not None else None, values)
    asked = with_experiment(with_source(asked, None if source is None else os.fspath(source)), experiment)
    lines = _Lines(show or (lambda line: None))
    from pipelines.local.resume import close_killed
    from pipelines.local.runner import run_pipeline

    with _one, _environment_kept():
        with suppress(errors.TrackingError):  # of another run; a server that is away is asked another time
            close_killed()
        done = run_pipeline(asked, lines, title=name)
        if lines.fault:
            warnings.warn(f"show raised {lines.fault!r}; the run went on without it", RuntimeWarning, stacklevel=2)
        if failure := done.failure:
            if failure["trace"]:
                raise RuntimeError(f"{failure['step']}: {failure['message']}\n{failure['trace']}")
            raise errors.named(failure.get("error", ""), failure["message"])
        return _result(done)


_PATH = (str, os.PathLike, NoneType)
_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "source": (_PATH, "the path of a folder or file, or the name of a built-in data set"),
    "settings": ((Mapping, NoneType), 'a mapping such as {"train.epochs": 3}'),
    "params": (_PATH, "the path of a settings file"),
    "name": ((str,), "a text"),
    "experiment": ((str,), "a text"),
    "show": ((Callable, NoneType), "a function such as print"),  # type: ignore[dict-item]
}
"""Argument of `run` → its types, and what to give."""


def _check_types(arguments: Mapping[str, object]) -> None:
    for argument, (types, wanted) in _TYPES.items():
        if not isinstance(given := arguments[argument], types):
            raise errors.SettingsError(f"{argument}={shortened(repr(given), 60)} is of another type; give {wanted}")


class _Lines:
    """A display of a line for each step that ended."""

    def __init__(self, show: Callable[[str], object]) -> None:
        self._function = show
        self.fault: Exception | None = None
        """Error of the function, after which it is not called again."""

    def _show(self, line: str) -> None:
        # In the thread that follows the steps, which must not end by a fault of the caller's.
        try:
            if self.fault is None:
                self._function(line)
        except Exception as error:
            self.fault = error

    def live(self, run: str) -> AbstractContextManager[None]:
        return nullcontext()

    def show(self, event: Event) -> None:
        if event["kind"] == "finished":
            self._show(f"{event['step']}: {event['summary']}")

    def note(self, text: str) -> None:
        self._show(text)


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Take back what the block puts into the environment: a run tells its steps so who they belong to."""
    before = os.environ.copy()
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _result(done: RunResult) -> Result:
    from components.platform.tracking import mlflow_runs

    evaluation, certificate, registration = (
        artifacts.read_json(done.outputs[kind] / f"{kind}.json")
        for kind in ("evaluation", "certificate", "registration")
    )
    folder, gap = done.context.folder, evaluation["gap"]
    return Result(
        name=done.context.name,
        verdict=certificate["verdict"],
        exit_code=done.exit_code,
        **{split: _figure(evaluation["accuracy"][split]) for split in ("train", "val", "test")},
        gap=_figure(gap, "points"),
        confidence_level=gap["confidence_level"],
        checks=tuple(Check(each["name"], each["verdict"], each["reason"]) for each in certificate["checks"]),
        model=registration["name"],
        version=str(registration["version"]),
        alias=done.context.decision.get("alias", ""),
        receipt=registration["receipt"],
        report=folder / "report.html",
        bento=folder / "model.bento" if "bento" in done.outputs else None,
        run_id=mlflow_runs.run_id(done.context),
        notice=done.tracking_notice,
    )


def _figure(row: Mapping[str, Any], value: str = "value") -> Figure:
    return Figure(row[value], row["low"], row["high"])
