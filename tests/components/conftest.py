"""A workspace of one's own, with a real and empty MLflow store in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.platform.run_context import DRAINED_VARIABLE, EXPERIMENT_VARIABLE
from gapgate.artifacts import RUN_VARIABLE


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database with no run in it, made once, because MLflow takes seconds for that; and made where an earlier
    try was killed, because that must not matter."""
    home = tmp_path_factory.mktemp("store")
    (home / "mlflow.partial").write_bytes(b"SQLite format 3\0 and no more")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAPGATE_HOME", str(home))
        patch.setenv("MLFLOW_TRACKING_URI", "")
        from components.platform.mlflow_runs import client

        client()
    return home / "mlflow.db"


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
