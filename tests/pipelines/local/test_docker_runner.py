"""What the containers of a run see of this machine."""

import pytest

from components.platform.run_context import RunContext
from gapgate.settings.sections import DataSettings, Settings, TrainSettings
from pipelines.local.docker_runner import Steps


def steps(**sections):
    return Steps(Settings(**sections), RunContext("run"), {})


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # MLflow itself sets it; this is undone
    return tmp_path


def test_ingest_sees_its_source_to_read_a_table_with_what_lies_beside_it(workspace):
    home = {str(workspace / ".gapgate"): {"bind": str(workspace / ".gapgate"), "mode": "rw"}}
    photos = workspace / "photos"
    photos.mkdir()
    (photos / "table.csv").write_text("path,label\n")
    read = {str(photos): {"bind": str(photos), "mode": "ro"}}
    for source in ("photos", "photos/table.csv"):
        assert steps(data=DataSettings(source=source)).volumes("ingest") == home | read
        assert steps(data=DataSettings(source=source)).volumes("preprocess") == home
    assert steps(data=DataSettings(source="digits")).volumes("ingest") == home


def test_ingest_sees_the_repository_that_is_named(workspace):
    other = workspace / "other"
    other.mkdir()
    assert str(other) in steps(data=DataSettings(repository=str(other))).volumes("ingest")
    assert str(workspace) in steps().volumes("ingest")


def test_only_steps_that_ask_somebody_have_a_network(monkeypatch):
    offline = steps(data=DataSettings(source="digits"))
    assert {offline.network(step) for step in ("ingest", "train", "evaluate", "register", "package")} == {"none"}
    assert steps().network("ingest") == "bridge"
    assert steps(train=TrainSettings(pretrained=True)).network("train") == "bridge"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert (
        offline.network("package") == offline.network("register") == "host"
    )  # the loopback of a bridge is the container's own
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    assert offline.network("package") == offline.network("register") == "bridge"
    assert offline.network("train") == "none"


def test_ingest_gets_the_credentials_of_git_but_not_the_program_of_this_machine_that_asks_for_them(monkeypatch):
    credentials = {"GIT_USERNAME", "GIT_PASSWORD"}
    for name in (*credentials, "GIT_ASKPASS"):
        monkeypatch.setenv(name, "x")
    assert credentials <= set(steps().environment("ingest", ""))
    assert "GIT_ASKPASS" not in steps().environment("ingest", "")
    assert not credentials & set(steps().environment("train", ""))
