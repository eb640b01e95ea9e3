"""resolve: repository, revision and path → the commit and DVC's hash of the data, on a cluster.

No data moves. Kubeflow Pipelines never takes this task from its cache, and looks up ingest by what it answers: a branch
that has moved is fetched and trained on, and of one that has not the results are taken from the run before.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from pathlib import Path

from components.catalog import RESOLVE
from components.platform import credentials
from components.platform.data import dvc_data
from components.platform.run_context import EXPERIMENT_VARIABLE, RunContext
from components.platform.step_log import StepLog
from components.platform.tracking.spool import Spool
from components.tries import AtOnce, Patient
from gapgate.data.sources import BUILTINS
from gapgate.data.sources.classes import reading_of
from gapgate.errors import GapgateError, TrackingError
from gapgate.settings.sections import DataSettings


def run(settings: DataSettings) -> tuple[str, str]:
    """Find the commit and the hash of the data. The commit is empty for a source and for the files of a folder as they
    are now; the hash is empty for a built-in data set, which is the same wherever the code is.

    Raises:
        DataError: there is no such repository, revision, path or source.
    """
    if settings.source in BUILTINS and not Path(settings.source).exists():
        return "", ""
    if settings.source:
        return "", dvc_data.hash_of_source(settings.source, reading_of(settings))
    root = Path(settings.repository)
    if settings.revision or not root.is_dir():
        return dvc_data.locate(settings.repository, settings.revision, settings.path)
    pinned = pin.hash if (pin := dvc_data.pin_of(root, settings.path)) else ""
    if not (data := root / settings.path).exists():
        return "", pinned  # ingest restores what is pinned, or says that nothing is
    found = dvc_data.hash_of_source(str(data))
    # With the pin, since ingest writes down whether the files differ from it.
    return "", found if found == pinned else f"{found} (pinned: {pinned or 'none'})"


def report(settings: DataSettings, experiment: str) -> tuple[str, str]:
    """`run` as a task of a pipeline run. A passing fault is tried again for some minutes; an error ends the MLflow
    run, and the process with its exit code. The answer goes into the log, and with the next step's reports to that run.
    """
    if experiment:
        os.environ[EXPERIMENT_VARIABLE] = experiment
    settings = credentials.taken_from(settings)
    context = RunContext.current() or RunContext.new()
    spool = Spool(context.spool, RESOLVE, show=StepLog(RESOLVE).show)
    spool.started()
    # Until the variable is read: it gives the exit code where that fails.
    tries = AtOnce()
    try:
        tries = Patient.from_environment()
        _refuse_deleted_experiment(context)
        commit, found = tries.until_done(lambda: run(settings), spool)
    except GapgateError as error:
        spool.failed(str(error), tries.exit_code(error), error=type(error).__name__)
        _end(context)
        sys.exit(tries.exit_code(error))
    except Exception as error:
        spool.failed(f"{type(error).__name__}: {error}", 1, traceback.format_exc())
        _end(context)
        raise
    spool.tags({"data.revision": commit, "data.dvc_hash": found})
    where = settings.source or f"{settings.path} of {settings.repository}"
    said = [where, *([f"commit {commit[:12]}"] if commit else []), *([f"DVC hash {found[:12]}"] if found else [])]
    spool.finished(", ".join(said))
    return commit, found


def _refuse_deleted_experiment(context: RunContext) -> None:
    from components.platform.tracking import mlflow_experiments

    mlflow_experiments.refuse_deleted_experiment(context.experiment)


def _end(context: RunContext) -> None:
    """Close the MLflow run as failed; for a server that is away, see `components.close`."""
    from components.platform.tracking import mlflow_runs

    with contextlib.suppress(TrackingError):
        mlflow_runs.finish(context, succeeded=False)
