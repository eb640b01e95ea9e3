"""A workspace of one's own, with a real and empty MLflow store in it, and a real MLflow server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from components.platform.run_context import DRAINED_VARIABLE, EXPERIMENT_VARIABLE
from gapgate.artifacts import RUN_VARIABLE
from tests.serving.registry_server import RegistryServer

if TYPE_CHECKING:
    import onnx

    from components.platform.registry.mlflow_registry import Registry
    from gapgate.evidence.sealed.certificate import Verdict
    from tests.components.releases import Made
    from tests.pipelines.kubeflow.kfp_server import KfpServer


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Path:
    """`GAPGATE_HOME`, with its own store; what a step sets in the environment is undone."""
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copyfile(empty_store, folder / "mlflow.db")
    monkeypatch.setenv("GAPGATE_HOME", str(folder))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", RUN_VARIABLE, EXPERIMENT_VARIABLE, DRAINED_VARIABLE):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv(EXPERIMENT_VARIABLE, "gapgate")
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[RegistryServer]:
    """An MLflow server for all tests of these folders; one that stops it starts it again."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copyfile(empty_store, folder / "server.db")
    server = RegistryServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def kfp(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpServer]:
    """Kubeflow Pipelines' API, as a pod reaches it."""
    from tests.pipelines.kubeflow.kfp_server import serving  # a second for kfp

    with serving() as server:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
        monkeypatch.setenv("KFP_POD_NAME", "gapgate-training-x-system-container-impl-1")
        yield server


@pytest.fixture
def registry(home: Path) -> Registry:
    from components.platform.registry.mlflow_registry import Registry

    return Registry()


@pytest.fixture
def make(home: Path, tmp_path: Path) -> Callable[..., Made]:
    """Function from the name of a run to its artifacts, as `register` takes them."""
    from tests.components import releases

    def make(run: str, model: onnx.ModelProto | None = None, verdict: Verdict = "pass") -> Made:
        return releases.make(tmp_path / run, run, model, verdict)

    return make


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, onnx.ModelProto]:
    """Models of different accuracy, by name."""
    from tests.components import releases

    return releases.of_accuracy(tmp_path_factory.mktemp("images"))
