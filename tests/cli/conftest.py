"""Commands for a cluster, as a user calls them, on a server that speaks KFP's API."""

import shutil
from pathlib import Path

import pytest

from cli import app
from gapgate.errors import GapgateError
from pipelines.kubeflow import compiler as cluster_compiler
from pipelines.kubeflow import connection, submission
from tests.pipelines.kubeflow.cluster_calls import commit, git
from tests.pipelines.kubeflow.kfp_server import serving

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def compile_once():
    """KFP's compiler, once for each set of cluster settings: it takes half a second."""
    kept = {}

    def compile_pipeline(given, path, *, is_cached=True):
        key = (given.model_dump_json(), is_cached)
        if key not in kept:
            cluster_compiler.compile_pipeline(given, path, is_cached=is_cached)
            kept[key] = path.read_text()
        path.write_text(kept[key])

    return compile_pipeline


@pytest.fixture
def call(server, capsys, monkeypatch, tmp_path, compile_once):
    """A command as a user calls it, in an empty folder: exit code, output, the one line of an error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(submission, "compile_pipeline", compile_once)
    monkeypatch.setattr(connection, "_PAUSES_S", (0.01, 0.02))
    # The developer's own cluster is not asked.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "no-kubeconfig"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # MLflow itself sets it; this is undone
    shutil.copytree(ROOT / "infra", tmp_path / "infra", ignore=shutil.ignore_patterns("kubernetes", "docker"))

    def gapgate(*arguments):
        said = ""
        try:
            code = app([str(argument) for argument in arguments], standalone_mode=False) or 0
        except GapgateError as error:
            code, said = error.exit_code, str(error)
        printed = capsys.readouterr()
        assert "\n" not in said
        return code, printed.out, said or printed.err

    return gapgate


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A git repository whose data DVC tracks, as a URL."""
    from dvc.repo import Repo

    root = tmp_path_factory.mktemp("pins") / "repository"
    root.mkdir()
    git(root, "init", "-b", "main")
    with Repo.init(str(root)):
        pass
    commit(root, "a")
    git(root, "tag", "-a", "v1", "-m", "first")
    return root
