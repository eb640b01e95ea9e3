"""The trainings of a sweep, one after the other; their MLflow runs are children of the sweep's run.

Cells are trials, so earlier results are cache hits, and a sweep that was interrupted resumes where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from components.catalog import STEPS
from components.platform.tracking import mlflow_client, mlflow_runs
from components.platform.tracking.spool import Event, Spool
from gapgate import artifacts
from gapgate.errors import SettingsError, TrackingError, storage_errors
from pipelines.trials.sweep import FIGURES, Cell, Sweep, figures
from pipelines.trials.trial import STEP_NAMES, Trial, Watch, run_trial

Report = Callable[[Sweep, Path], Sequence[Path]]
"""Function that writes a sweep's files into a folder and returns those to keep with the MLflow run."""


def run(sweep: Sweep, report: Report, watch: Watch, ended: Callable[[Cell], None]) -> None:
    """Train or find every cell, and call `ended` after each. The files of `report` are kept with the MLflow run.

    Raises:
        GapgateError: the error of a step before the training; or, if no cell could be trained, the first cell's.
    """
    context = sweep.context
    with storage_errors(context.folder):
        context.folder.mkdir(parents=True, exist_ok=True)
        artifacts.write_json(context.folder / "settings.json", sweep.cells[0].settings[0].model_dump(mode="json"))
        # `gapgate sync` reads both files when it sends a sweep whose server was away.
        artifacts.write_json(context.folder / "result.json", {"exit_code": 0})
    with context.alive(), _tracked(sweep) as parent:
        for cell in sweep.cells:
            _train(cell, parent, watch)
            # The trainings do not wait for a server; the next call of the same sweep makes the missing runs.
            with suppress(TrackingError):
                _nest(sweep, cell, parent)
            ended(cell)
        if not sweep.done:
            raise SettingsError(sweep.cells[0].failure)
        spool = Spool(context.spool, "sweep")
        for path in report(sweep, context.folder):
            spool.file(path, "sweep")
        spool.metrics({f"best/{name}": sweep.best.mean(name) for name in FIGURES})
        spool.tags({"sweep.best": sweep.best.label})


def _train(cell: Cell, parent: str, watch: Watch) -> None:
    """Train all seeds of a cell. A settings error becomes the cell's failure, and the sweep goes on."""
    for number, settings in enumerate(cell.settings, start=1):
        at = f"{cell.label}, seed {number}/{len(cell.settings)}" if len(cell.settings) > 1 else cell.label
        watch(at)
        try:
            trial = run_trial(settings, parent_run_id=parent, watch=lambda text, at=at: watch(f"{at}: {text}"))  # type: ignore[misc]
        except SettingsError as error:
            cell.failure = str(error)
            return
        cell.trials.append(trial)


@contextmanager
def _tracked(sweep: Sweep) -> Iterator[str]:
    """Open the sweep's MLflow run for the time of the block; yields its id, or an empty string without a server."""
    spool = Spool(sweep.context.spool, "sweep")
    spool.params({axis.name: ", ".join(axis.values) for axis in sweep.axes} | {"num_seeds": sweep.num_seeds})
    try:
        parent = mlflow_runs.send(sweep.context)
    except TrackingError:
        parent = ""
    succeeded = False
    try:
        yield parent
        succeeded = True
    finally:
        try:
            mlflow_runs.finish(sweep.context, succeeded=succeeded)
        except TrackingError as error:
            sweep.notice = str(error)


def _nest(sweep: Sweep, cell: Cell, parent: str) -> None:
    """Name the MLflow runs of a cell's trials after the cell, and make runs for trials that were cache hits.

    Raises:
        TrackingError: the server does not answer; the next call of the same sweep does it.
    """
    if not parent:
        return
    client = mlflow_client.client()
    for trial in cell.trials:
        digest = trial.artifacts["evaluation"].digest
        with mlflow_client.away_errors():
            experiment = client.get_run(parent).info.experiment_id
            # By the evaluation's digest: a second call of the same sweep must not make a second run of a trial.
            known = f"tags.`mlflow.parentRunId` = '{parent}' and tags.`sweep.evaluation` = '{digest}'"
            if client.search_runs([experiment], known, max_results=1):
                continue
            run = trial.run_id or client.create_run(experiment, tags={"mlflow.parentRunId": parent}).info.run_id
            seed = f", seed {trial.settings.train.seed}" if sweep.num_seeds > 1 else ""
            tags = {"mlflow.runName": cell.label + seed, "gate.verdict": trial.verdict, "sweep.evaluation": digest}
            mlflow_runs.send_values(client, run, [*_events(trial), _event("tags", tags)])
            client.set_terminated(run, "FINISHED")


def _events(trial: Trial) -> Iterator[Event]:
    """Events of a trial: its params and figures, and of a cache hit the curves of its history too."""
    for step in map(STEPS.__getitem__, STEP_NAMES):
        values = getattr(trial.settings, step.section).model_dump(mode="json")
        yield _event("params", {f"{step.section}.{name}": str(value) for name, value in values.items()})
    # A trial of this call has sent its curves itself.
    for line in [] if trial.run_id else trial.history:
        curves = {
            name.replace("_", "/", 1): value for name, value in line.items() if name.startswith(("train_", "val_"))
        }
        yield _event("metrics", curves, at=int(line["epoch"]))
    yield _event("metrics", {FIGURES[name]: value for name, value in figures(trial).items()})


def _event(kind: str, values: Any, at: int = 0) -> Event:
    return {"kind": kind, "time": time.time(), "values": values, "at": at}
