"""Submission of a run to a cluster: exact version of the data, compiled pipeline, parameters."""

from __future__ import annotations

import re
import secrets
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.platform import kfp_run
from components.platform.data import dvc_data
from gapgate.data.sources import BUILTINS
from gapgate.errors import DataError, RemoteAwayError, SettingsError
from gapgate.settings.sections import Settings
from pipelines.graph import arguments
from pipelines.kubeflow import data_revision
from pipelines.kubeflow.client import Kfp, Submission, Version
from pipelines.kubeflow.cluster_settings import ClusterSettings
from pipelines.kubeflow.compiler import compile_pipeline

_GPU = re.compile(r"([a-z0-9][a-z0-9.-]*/[A-Za-z0-9][\w.-]*)=([0-9]{1,3})")
_WORKING = ("PENDING", "RUNNING", "PAUSED")


def with_data(
    settings: Settings,
    *,
    repository: str = "",
    revision: str = "",
    path: str = "",
    source: str = "",
    pin: bool = True,
) -> Settings:
    """Settings with data that the cluster can reach; with `pin`, at the commit that the revision is at now. Empty
    arguments leave the settings as they are.

    Raises:
        DataError: a folder of this machine, or a revision that is not there.
    """
    data = settings.data
    if repository or revision or path:
        if source:
            raise SettingsError(f"--data-source {source} takes no repository; leave one of the two out")
        data = data.model_copy(update={"source": ""})
    given = {"source": source, "repository": repository, "revision": revision, "path": path}
    data = data.model_copy(update={name: value for name, value in given.items() if value})
    if data.source:
        # An absolute path may be a volume in the pods; a relative one can only be meant for this machine.
        if data.source not in BUILTINS and not Path(data.source).is_absolute():
            raise DataError(
                f"{data.source} is a folder of this machine, which the cluster cannot reach; name a built-in data set "
                f"({', '.join(BUILTINS)}), a path in the pods that begins with /, or a repository"
            )
        return settings.model_copy(update={"data": data})
    data_revision.check_reachable(data.repository)
    commit = data_revision.exact_commit(data.repository, data.revision)
    if pin:
        data = data.model_copy(update={"revision": commit})
    return settings.model_copy(update={"data": data})


def parameters_of(settings: Settings, gpu: str = "") -> dict[str, Any]:
    """The pipeline's parameters; `gpu` is KIND=COUNT, empty for none.

    Raises:
        SettingsError: `gpu` is written in another way.
    """
    if (given := gpu_of(gpu)) is None:
        return arguments(settings)
    return arguments(settings) | {"gpu_kind": given[0], "num_gpus": given[1]}


def gpu_of(gpu: str) -> tuple[str, int] | None:
    """Kind and number of GPUs in KIND=COUNT; None if it is empty.

    Raises:
        SettingsError: it is written in another way.
    """
    if not gpu:
        return None
    if (match := _GPU.fullmatch(gpu)) is None or int(match[2]) == 0:
        raise SettingsError(f"--gpu {gpu} is not KIND=COUNT; write it like nvidia.com/gpu=1")
    return match[1], int(match[2])


def upload(kfp: Kfp, cluster: ClusterSettings, *, is_cached: bool = True) -> Version:
    """Compile the pipeline for a cluster and upload it, unless the same one is there."""
    with tempfile.TemporaryDirectory(prefix="gapgate-") as folder:
        package = Path(folder, "pipeline.yaml")
        # Compiled so: `kfp.Client.run_pipeline(enable_caching=False)` has no effect on an uploaded version.
        compile_pipeline(cluster, package, is_cached=is_cached)
        return kfp.upload(package, f"images {cluster.images.step} and {cluster.images.train}")


def submission_of(
    settings: Settings, parameters: dict[str, Any], cluster: ClusterSettings, name: str, ui: str = ""
) -> Submission:
    """The submission for KFP; an empty `name` becomes one with the time and a random token. `ui` is the URL of KFP's
    UI, for the link that MLflow shows."""
    data = settings.data
    what = data.source or f"{data.path} at {data.revision or 'HEAD'} of {data.repository}"
    # In the description, where `make_once` finds the run by it after a lost answer.
    token = secrets.token_hex(4)
    return Submission(
        # As a run on this machine is named; KFP's list (2.17) shows some 22 characters, at 1280 px.
        name=name or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{token[:4]}",
        experiment=settings.tracking.experiment,
        parameters=parameters,
        service_account=cluster.service_account,
        # The first step reads user and address from it, for the MLflow run.
        note=f"{what}{kfp_run.submitted(ui)}; submission {token}",
    )


def same_data(runs: Iterable[Any], settings: Settings) -> Any:
    """The newest run that succeeded or is at work, if it has the same data; else None. Two commits hold the same data
    if DVC's hash of the path is the same.

    Raises:
        DataError: the settings' commit has no such path.
    """
    data = settings.data
    wanted = {"data_repository": data.repository, "data_path": data.path, "model_name": settings.registry.model_name}
    if data.source:
        raise SettingsError(f"--if-data-changed compares commits, and {data.source} has none; name a repository")
    for run in runs:
        had = (run.runtime_config and run.runtime_config.parameters) or {}
        if run.state not in ("SUCCEEDED", *_WORKING) or any(had.get(name) != value for name, value in wanted.items()):
            continue
        if not data_revision.is_commit(str(had.get("data_revision", ""))):
            continue  # a run of a schedule: its branch may have moved, and the commit is not recorded
        # Only the newest: when the data return to an older version, the newest model is of other data.
        return run if _is_same(data.repository, data.path, str(had.get("data_revision", "")), data.revision) else None
    return None


def _is_same(repository: str, path: str, before: str, now: str) -> bool:
    if before == now:
        return True
    # Outside `try`: it is an error if the wanted commit has no such path, but not if an old one has gone.
    _, current = dvc_data.locate(repository, now, path)
    try:
        return dvc_data.locate(repository, before, path)[1] == current
    except RemoteAwayError:  # nothing follows from it, so no run begins
        raise
    except DataError:  # that commit is gone, as after a rebase
        return False
