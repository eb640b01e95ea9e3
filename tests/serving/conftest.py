from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gapgate.artifacts import Artifact
from gapgate.evidence.sealed.archive import unpack_model
from serving.run import Server, serve
from tests.serving import packaged
from tests.serving.registry_server import RegistryServer


@pytest.fixture(scope="session")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return packaged.build(tmp_path_factory.mktemp("packaged"))


@pytest.fixture(scope="session")
def server(bento: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(bento.path / "model.bento", work_dir=tmp_path_factory.mktemp("served")) as running:
        running.wait_ready()
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as connected:
        yield connected


@pytest.fixture(scope="session")
def model_dir(bento: Artifact) -> Path:
    return bento.path.parent / "model"


@pytest.fixture(scope="session")
def unpacked(bento: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_model(bento.path / "model.bento", tmp_path_factory.mktemp("unpacked") / "model")


@pytest.fixture
def package_dir(unpacked: Path, tmp_path: Path) -> Path:
    """A package of one's own, to change."""
    return Path(shutil.copytree(unpacked, tmp_path / "package"))


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[RegistryServer]:
    """A real MLflow server."""
    folder = tmp_path_factory.mktemp("mlflow")
    shutil.copyfile(empty_store, folder / "server.db")
    running = RegistryServer(folder)
    try:
        running.start()
        yield running
    finally:
        running.stop()
