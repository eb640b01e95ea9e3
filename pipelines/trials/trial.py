"""Many trainings from one process: the steps from ingest to gate for one settings file after the other.

Each step is made once for the same settings, inputs and code, so trials share what they have in common and a set of
trials that was interrupted goes on where it was. Every trial is an MLflow run; nothing is registered or packaged.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.catalog import STEPS, Step
from components.execute import make
from components.platform import mlflow_runs
from components.platform.run_context import RunContext
from components.platform.spool import Spool
from components.platform.workspace import trials_dir
from gapgate import artifacts
from gapgate.artifacts import RUN_VARIABLE, Artifact
from gapgate.errors import ArtifactError, TrackingError, storage_errors
from gapgate.settings.sections import Settings
from pipelines.trials.code_digest import code_digest

STEP_NAMES = ("ingest", "preprocess", "augment", "train", "evaluate", "gate")

Watch = Callable[[str], None]
"""Hears in a few words what a trial is at."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What one settings file came to."""

    settings: Settings
    artifacts: Mapping[str, Artifact]
    """Kind → artifact, of the steps from ingest to gate."""
    training: Mapping[str, Any]
    """`wall_s`, `cpu_s` (null where the training was interrupted), `images_per_s` (median of the epochs)."""
    was_cached: bool
    """Whether nothing was trained for it now."""
    run_id: str
    """Of the MLflow run; empty where the trial was cached or the server is away."""

    @property
    def evaluation(self) -> dict[str, Any]:
        """The content of `evaluation.json`."""
        content: dict[str, Any] = self.artifacts["evaluation"].read_json("evaluation.json")
        return content

    @property
    def history(self) -> list[dict[str, Any]]:
        """A line for each epoch."""
        lines: list[dict[str, Any]] = self.artifacts["model"].read_json("history.json")
        return lines

    @property
    def verdict(self) -> str:
        """Of the gate: pass, fail or undecided."""
        return str(self.artifacts["certificate"].read_json("certificate.json")["verdict"])


def run_trial(settings: Settings, *, parent_run_id: str = "", watch: Watch = lambda text: None) -> Trial:
    """Run the steps from ingest to gate, or find what they made before.

    Args:
        parent_run_id: the MLflow run below which this one is shown.

    Raises:
        GapgateError: whatever a step says to the user.
    """
    context = RunContext.new(settings.tracking.experiment)
    made = _Made(context, watch)
    with _current(context, settings):
        for name in STEP_NAMES:
            made.step(STEPS[name], settings)
    if made.was_cached:
        shutil.rmtree(context.folder)
    run_id = "" if made.was_cached else _report(context, parent_run_id)
    training = artifacts.read_json(_timing(made.artifacts["model"].path))
    return Trial(settings, made.artifacts, training, made.was_cached, run_id)


@dataclass
class _Made:
    """The artifacts of a trial, as they are made or found."""

    context: RunContext
    watch: Watch
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    was_cached: bool = True

    def step(self, step: Step, settings: Settings) -> None:
        """Make the artifact of a step, unless it is there; the data are looked at each time."""
        section = getattr(settings, step.section)
        inputs = {kind: self.artifacts[kind] for kind in step.inputs}
        key = artifacts.digest_of(
            {
                "settings": section.model_dump(mode="json"),
                "inputs": {kind: artifact.digest for kind, artifact in inputs.items()},
                "code": code_digest(),
            }
        )
        place = trials_dir() / step.output / key.removeprefix("sha256:")[:32]
        found = None if step.name == "ingest" else _find(place, step.output)
        if found is None:
            found = self._make(step, section, inputs, place)
        self.artifacts[step.output] = found

    def _make(self, step: Step, section: Any, inputs: Mapping[str, Artifact], place: Path) -> Artifact:
        tracker = _Tracker(self.context.spool, step.name, self.watch)
        tracker.params({f"{step.section}.{key}": value for key, value in section.model_dump(mode="json").items()})
        wall, cpu = time.perf_counter(), time.process_time()
        made, _ = make(step.name, section, inputs, place, tracker)
        if step.name == "train":
            self.was_cached = False
            timing = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
            rates = sorted(tracker.images_per_s)
            with storage_errors(place):
                artifacts.write_json(
                    _timing(place),
                    (dict.fromkeys(timing) if tracker.was_resumed else timing)
                    | {"images_per_s": rates[len(rates) // 2] if rates else None},
                )
        return made


class _Tracker(Spool):
    """A spool that also says how far its step is, and remembers how quick the epochs were."""

    def __init__(self, folder: Path, step: str, watch: Watch) -> None:
        super().__init__(folder, step)
        self.images_per_s: list[float] = []
        self.was_resumed = False
        self._watch = watch

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        super().metrics(values, step)
        if rate := values.get("train/images_per_s"):
            self.images_per_s.append(rate)

    def tags(self, values: Mapping[str, str]) -> None:
        super().tags(values)
        self.was_resumed |= values.get("train/checkpoint", "").startswith("resumed")

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        self._watch(f"{self.step} {done:,}/{total:,} {unit} {note}".rstrip())


def _find(place: Path, kind: str) -> Artifact | None:
    """The artifact that was made before; None where there is none, or not a whole one."""
    if kind == "model" and not _timing(place).exists():
        return None
    with suppress(ArtifactError):
        return artifacts.load(place, kind)
    return None


def _timing(model: Path) -> Path:
    """Beside the artifact, which is the same for the same training on any machine."""
    return model.with_suffix(".timing.json")


@contextmanager
def _current(context: RunContext, settings: Settings) -> Iterator[None]:
    """While the block runs, artifacts are made for this run, and `gapgate sync` leaves it alone."""
    with storage_errors(context.folder):
        context.folder.mkdir(parents=True)
        artifacts.write_json(context.folder / "settings.json", settings.model_dump(mode="json"))
        artifacts.write_json(context.folder / "result.json", {"exit_code": 1})
    previous = os.environ.get(RUN_VARIABLE)
    os.environ[RUN_VARIABLE] = context.name
    try:
        with context.alive():
            yield
        artifacts.write_json(context.folder / "result.json", {"exit_code": 0})
    finally:
        os.environ.pop(RUN_VARIABLE)
        if previous is not None:
            os.environ[RUN_VARIABLE] = previous


def _report(context: RunContext, parent_run_id: str) -> str:
    """Send everything to MLflow, and return its run's id; a server that is away is told later, by `gapgate sync`."""
    if parent_run_id:
        Spool(context.spool, "trial").tags({"mlflow.parentRunId": parent_run_id})
    with suppress(TrackingError):
        mlflow_runs.finish(context, succeeded=True)
    return mlflow_runs.run_id(context)


def figures_digest(settings: Settings) -> str:
    """Of all settings that decide on a trial's figures: not of the names under which it is kept, nor of where its data
    are."""
    return artifacts.digest_of(settings.model_dump(mode="json", include=set(STEP_NAMES) - {"ingest"}))
