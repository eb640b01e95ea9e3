"""The version of the data that a run on a cluster begins with, against a real git and DVC repository."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from components import resolve
from components.execute import make
from components.platform.data import dvc_data, dvc_hashes
from components.platform.run_context import RunContext
from components.platform.tracking import mlflow_client, mlflow_experiments, mlflow_runs
from gapgate.artifacts import RUN_VARIABLE
from gapgate.settings.sections import DataSettings
from gapgate.tracking import NullTracker
from tests.pipelines.kubeflow.cluster_calls import commit, git


@pytest.fixture(scope="module")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository whose data DVC tracks, with a second commit that changes other files alone."""
    from dvc.repo import Repo

    root = tmp_path_factory.mktemp("pins") / "repository"
    root.mkdir()
    git(root, "init", "-b", "main")
    with Repo.init(str(root)):
        pass
    remote = root.parent / "remote"
    (root / ".dvc" / "config").write_text(f"[core]\n    remote = store\n['remote \"store\"']\n    url = {remote}\n")
    commit(root, "a")
    with Repo(str(root)) as repo:
        repo.push()
    (root / "README").write_text("text")
    commit(root)
    return root


@pytest.fixture
def repository(pinned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pinned, tmp_path / "repository", symlinks=True))


def ingested(folder: Path, settings: DataSettings) -> dict[str, object]:
    made, _ = make("ingest", settings, {}, folder, NullTracker())
    return dict(made.read_json("dataset.json"))


@pytest.mark.parametrize("revision", ["", "main", "HEAD~1"])
def test_a_revision_becomes_the_commit_and_the_hash_that_ingest_finds_there(
    pinned: Path, tmp_path: Path, revision: str
) -> None:
    settings = DataSettings(repository=pinned.as_uri(), revision=revision)
    found, dvc_hash = resolve.run(settings)
    assert found == git(pinned, "rev-parse", revision or "HEAD")
    facts = ingested(tmp_path / "dataset", settings.model_copy(update={"revision": found}))
    assert (facts["revision"], facts["dvc_hash"]) == (found, dvc_hash)


def test_a_branch_that_moves_is_another_answer(repository: Path) -> None:
    settings = DataSettings(repository=repository.as_uri(), revision="main")
    before = resolve.run(settings)
    assert resolve.run(settings) == before
    moved = commit(repository, "b")
    # In a process of its own, as each run is: dulwich keeps the stderr that was there when it was imported, and pytest
    # has closed that one.
    code = "import sys, json; from components import resolve; from gapgate.settings.sections import DataSettings; "
    code += "print(json.dumps(resolve.run(DataSettings(repository=sys.argv[1], revision='main'))))"
    done = subprocess.run([sys.executable, "-c", code, repository.as_uri()], capture_output=True, text=True, check=True)
    now = json.loads(done.stdout)
    assert now[0] == moved
    assert now[1] != before[1]


def test_the_files_of_a_folder_as_they_are_have_a_hash_and_no_commit(repository: Path, tmp_path: Path) -> None:
    settings = DataSettings(repository=str(repository))
    pin = dvc_data.pin_of(repository)
    assert pin is not None
    assert resolve.run(settings) == ("", pin.hash)
    (repository / "data" / "a.txt").unlink()
    (repository / "data" / "b.txt").write_text("new")
    commit_, dirty = resolve.run(settings)
    assert commit_ == ""
    assert dirty == f"{dvc_hashes.dvc_hash(repository / 'data')} (pinned: {pin.hash})"
    shutil.rmtree(repository / "data")
    assert resolve.run(settings) == ("", pin.hash)  # ingest restores it


def test_a_folder_as_source_has_the_hash_of_what_ingest_takes_of_it(tmp_path: Path) -> None:
    source = tmp_path / "images"
    (source / "cat").mkdir(parents=True)
    (source / "cat" / "1.png").write_bytes(b"one")
    (source / ".hidden").write_text("left out")
    settings = DataSettings(source=str(source))
    found = resolve.run(settings)
    assert found == ("", ingested(tmp_path / "dataset", settings)["dvc_hash"])
    (source / ".hidden").write_text("changed")
    assert resolve.run(settings) == found
    (source / "cat" / "2.png").write_bytes(b"two")
    assert resolve.run(settings) != found


def test_a_table_as_source_is_hashed_with_the_images_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"one")
    (tmp_path / "other.png").write_bytes(b"not named")
    (tmp_path / "images" / "b.png").write_bytes(b"two")
    (tmp_path / "table.csv").write_text("path,label\nimages/a.png,cat\nimages/b.png,dog\n")
    settings = DataSettings(source=str(tmp_path / "table.csv"))
    found = resolve.run(settings)
    (tmp_path / "other.png").write_bytes(b"changed")
    assert resolve.run(settings) == found
    (tmp_path / "images" / "a.png").write_bytes(b"changed")
    assert resolve.run(settings) != found


def test_a_built_in_data_set_needs_no_answer() -> None:
    assert resolve.run(DataSettings(source="digits", repository="https://none.example/x")) == ("", "")


@pytest.fixture
def report(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[DataSettings], tuple[str, str]]:
    def report(settings: DataSettings) -> tuple[str, str]:
        monkeypatch.setenv(RUN_VARIABLE, "r1")
        return resolve.report(settings, "gapgate")

    return report


def test_the_answer_is_in_the_log_and_in_the_mlflow_run_that_a_later_step_makes(
    report: Callable[[DataSettings], tuple[str, str]], pinned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, dvc_hash = report(DataSettings(repository=pinned.as_uri()))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("gapgate: resolve: done in ")
    assert line.endswith(f": data of {pinned.as_uri()}, commit {found[:12]}, DVC hash {dvc_hash[:12]}")
    run = mlflow_client.client().get_run(mlflow_runs.send(RunContext("r1")))
    assert (run.data.tags["data.revision"], run.data.tags["data.dvc_hash"]) == (found, dvc_hash)
    assert run.info.status == "RUNNING"


def test_a_repository_that_is_not_there_is_said_in_the_log_and_ends_the_mlflow_run(
    report: Callable[[DataSettings], tuple[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        report(DataSettings(repository=(tmp_path / "none").as_uri()))
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("gapgate:")]
    assert line.startswith("gapgate: resolve: error (exit code 2): git cannot get data at HEAD of")
    run = mlflow_client.client().get_run(mlflow_runs.run_id(RunContext("r1")))
    assert run.info.status == "FAILED"
    events = [json.loads(text)["kind"] for text in (RunContext("r1").spool / "resolve.jsonl").read_text().splitlines()]
    assert events == ["started", "failed"]


def test_a_deleted_experiment_is_found_before_any_data_is_looked_for(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(RUN_VARIABLE, "r1")
    client = mlflow_client.client()
    client.delete_experiment(mlflow_experiments.experiment_id(client, "gone"))
    with pytest.raises(SystemExit) as ended:
        resolve.report(DataSettings(source="digits"), "gone")
    assert ended.value.code == 2
    assert "the MLflow experiment 'gone' was deleted; bring it back with" in capsys.readouterr().out
