import pytest

from gapgate.process import fork_server
from tests.end_to_end.workspace import ROOT, Workspace


@pytest.fixture
def new_workspace(tmp_path):
    """A workspace without a tracking store: the first run makes it."""
    return Workspace(tmp_path)


@pytest.fixture
def workspace(new_workspace, empty_store):
    """A workspace whose tracking store is empty."""
    return new_workspace.with_store(empty_store)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """One whole run on digits with the project's own settings: its workspace and what it printed."""
    workspace = Workspace(tmp_path_factory.mktemp("digits"))
    # As a user has it: with a fork server of its own.
    command = ("run", "digits", "--params", ROOT / "params.yaml", "--name", "the first")
    done = workspace.gapgate(*command, **{fork_server.VARIABLE: ""})
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return workspace, done.stdout
