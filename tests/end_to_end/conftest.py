import os
import shutil
import subprocess
import sys

import pytest

from tests.end_to_end.workspace import ROOT, Workspace


@pytest.fixture(scope="session")
def local_store(tmp_path_factory):
    """An empty MLflow database. MLflow makes one by all of its migrations, 3 s of processor time each."""
    home = tmp_path_factory.mktemp("store")
    environment = os.environ | {"GAPGATE_HOME": str(home), "MLFLOW_TRACKING_URI": "", "PYTHONPATH": str(ROOT)}
    make = "from components.platform.mlflow_runs import client; client()"
    subprocess.run([sys.executable, "-c", make], env=environment, check=True)
    return home / "mlflow.db"


@pytest.fixture
def new_workspace(tmp_path):
    """A workspace without a tracking store: the first run makes it."""
    return Workspace(tmp_path)


@pytest.fixture
def workspace(new_workspace, local_store):
    """A workspace whose tracking store is empty."""
    home = new_workspace.folder / ".gapgate"
    home.mkdir()
    shutil.copyfile(local_store, home / "mlflow.db")
    return new_workspace


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """One whole run on digits with the project's own settings: its workspace and what it printed."""
    workspace = Workspace(tmp_path_factory.mktemp("digits"))
    done = workspace.gapgate("run", "digits", "--params", ROOT / "params.yaml")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return workspace, done.stdout
