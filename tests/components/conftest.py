"""A workspace of one's own, with a real and empty MLflow store in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.platform.run_context import DRAINED_VARIABLE, EXPERIMENT_VARIABLE
from gapgate.artifacts import RUN_VARIABLE


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
