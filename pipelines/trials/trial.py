"""Trials: the steps from ingest to gate, for many settings in one process.

An artifact is made once for the same settings, inputs and code, so trials share what they have in common, and trials
that were interrupted resume where they were. Every trial is an MLflow run; nothing is registered or packaged.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.catalog import STEPS, Step
from components.execute import make
from components.platform.run_context import RunContext
from components.platform.tracking import mlflow_runs
from components.platform.tracking.spool import Spool
from components.platform.workspace import trials_dir
from gapgate import artifacts
from gapgate.artifacts import RUN_VARIABLE, Artifact
from gapgate.errors import ArtifactError, TrackingError, storage_errors
from gapgate.settings.sections import Settings
from pipelines.trials.code_digest import code_digest

if TYPE_CHECKING:
    from PIL.Image import Image

STEP_NAMES = ("ingest", "preprocess", "augment", "train", "evaluate", "gate")

Watch = Callable[[str], None]
"""Function that is called with a few words on the progress of a trial."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Result of one settings file."""

    settings: Settings
    artifacts: Mapping[str, Artifact]
    """Kind → artifact, of the steps from ingest to gate."""
    training: Mapping[str, Any]
    """`wall_s` and `cpu_s` (None if the training was interrupted), and `images_per_s` (median of the epochs)."""
    was_cached: bool
    """True if the training was a cache hit."""
    run_id: str
    """Id of the MLflow run; empty if the trial was a cache hit or the server is away."""

    @property
    def evaluation(self) -> dict[str, Any]:
        """The content of `evaluation.json`."""
        content: dict[str, Any] = self.artifacts["evaluation"].read_json("evaluation.json")
        return content

    @property
    def history(self) -> list[dict[str, Any]]:
        """Figures of each epoch, from `history.json`."""
        lines: list[dict[str, Any]] = self.artifacts["model"].read_json("history.json")
        return lines

    @property
    def verdict(self) -> str:
        """The gate's verdict: pass, fail or undecided."""
        return str(self.artifacts["certificate"].read_json("certificate.json")["verdict"])


def run_trial(settings: Settings, *, parent_run_id: str = "", watch: Watch = lambda text: None) -> Trial:
    """Run the steps from ingest to gate, or find the artifacts that they made before.

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
    # Nothing was trained, so the run has nothing to report; its folder goes.
    if made.was_cached:
        shutil.rmtree(context.folder)
    run_id = "" if made.was_cached else _report(context, parent_run_id)
    training = artifacts.read_json(_timing(made.artifacts["model"].path))
    return Trial(settings, made.artifacts, training, made.was_cached, run_id)


@dataclass
class _Made:
    """Artifacts of a trial so far, made or found."""

    context: RunContext
    watch: Watch
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    was_cached: bool = True

    def step(self, step: Step, settings: Settings) -> None:
        """Make the artifact of a step, unless it is there; ingest runs each time."""
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
        # The key of ingest holds the place of the data, not their content, which may have changed.
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
                    # A resumed training took longer than this process has seen.
                    (dict.fromkeys(timing) if tracker.was_resumed else timing)
                    | {"images_per_s": rates[len(rates) // 2] if rates else None},
                )
        return made


class _Tracker(Spool):
    """A spool that also reports progress to a `Watch` and keeps the images/s of each epoch."""

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

    def drawing(self, picture: Image, key: str, step: int = 0) -> None:
        """Drop it: nobody looks at the epochs of a trial."""

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        self._watch(f"{self.step} {done:,}/{total:,} {unit} {note}".rstrip())


def _find(place: Path, kind: str) -> Artifact | None:
    """The artifact that was made before; None if there is none, or an incomplete one."""
    # The process was killed between writing the artifact and its times; `run_trial` needs both.
    if kind == "model" and not _timing(place).exists():
        return None
    with suppress(ArtifactError):
        return artifacts.load(place, kind)
    return None


def _timing(model: Path) -> Path:
    """Path of the training's times. It is beside the artifact, not in it, since times would change the digest."""
    return model.with_suffix(".timing.json")


@contextmanager
def _current(context: RunContext, settings: Settings) -> Iterator[None]:
    """Make `context` the current run for the time of the block, and mark it as alive: `gapgate sync` skips it."""
    with storage_errors(context.folder):
        context.folder.mkdir(parents=True)
        artifacts.write_json(context.folder / "settings.json", settings.model_dump(mode="json"))
        # Failed until the block ends well, so that a run that is killed is sent as failed.
        artifacts.write_json(context.folder / "result.json", {"exit_code": 1})
    previous = os.environ.get(RUN_VARIABLE)
    # `artifacts.create` writes the current run into each manifest.
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
    """Send the run to MLflow and return its id there. If the server is away, `gapgate sync` sends it later."""
    if parent_run_id:
        Spool(context.spool, "trial").tags({"mlflow.parentRunId": parent_run_id})
    with suppress(TrackingError):
        mlflow_runs.finish(context, succeeded=True)
    return mlflow_runs.run_id(context)


def figures_digest(settings: Settings) -> str:
    """Digest of the settings that a trial's figures depend on: without names in the registry or MLflow, and without the
    place of the data."""
    return artifacts.digest_of(settings.model_dump(mode="json", include=set(STEP_NAMES) - {"ingest"}))
