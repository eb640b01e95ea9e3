"""Killed, doubled, and without its tracking server."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import mlflow
import pytest

from gapgate import artifacts
from tests.end_to_end.workspace import QUICK

STEPS = ("preprocess", "train", "evaluate", "register")


def wait_for(folder, pattern, timeout_s=300):
    deadline = time.monotonic() + timeout_s
    while not any(folder.glob(pattern)):
        assert time.monotonic() < deadline, f"{pattern} did not appear"
        time.sleep(0.02)


@pytest.mark.parametrize("step", STEPS)
def test_a_run_that_is_killed_at_a_step_can_be_started_again(workspace, step):
    run = workspace.start("run", "digits", *QUICK)
    try:
        wait_for(workspace.folder, f".gapgate/runs/*/spool/{step}.jsonl")
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
    again = workspace.gapgate("run", "digits", *QUICK)
    assert again.returncode == 0, again.stdout + again.stderr
    finished = list(workspace.folder.glob(".gapgate/runs/*/result.json"))
    assert len(finished) == 1


def test_a_killed_training_goes_on_and_ends_with_the_same_model(workspace):
    settings = (*QUICK, "--set", "train.epochs=30", "--set", "train.ema_decay=0.9")
    killed = workspace.start("run", "digits", *settings)
    try:
        wait_for(workspace.folder, ".gapgate/checkpoints/*/*.safetensors")
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.communicate()
    resumed = workspace.gapgate("run", "digits", *settings)
    fresh = workspace.gapgate("run", "digits", *settings)
    assert resumed.returncode == fresh.returncode == 0, resumed.stdout + fresh.stdout
    digests = {
        artifacts.load(path.parent, "model").digest
        for path in workspace.folder.glob(".gapgate/runs/*/artifacts/*/train/model/manifest.json")
    }
    assert len(digests) == 1
    resumes = [
        path
        for path in workspace.folder.glob(".gapgate/runs/*/spool/train.jsonl")
        if "resumed after" in path.read_text()
    ]
    assert len(resumes) == 1


def test_an_interrupted_run_says_how_it_goes_on_and_is_closed_as_failed(workspace):
    run = workspace.start("run", "digits", *QUICK, "--set", "train.epochs=200")
    wait_for(workspace.folder, ".gapgate/checkpoints/*/*.safetensors")
    os.killpg(run.pid, signal.SIGINT)
    printed, _ = run.communicate(timeout=300)
    assert run.returncode == 130
    assert "goes on from its last epoch" in printed
    assert "sent" in workspace.gapgate("sync").stdout
    client = mlflow.MlflowClient(f"sqlite:///{workspace.folder}/.gapgate/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("gapgate").experiment_id])
    assert found.info.status == "FAILED"


def test_two_runs_at_once_both_end_and_leave_one_champion(workspace):
    runs = [workspace.start("run", "digits", *QUICK) for _ in range(2)]
    printed = [run.communicate(timeout=600) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], printed
    listed = workspace.gapgate("models").stdout
    assert listed.count("pass") == 2
    assert listed.count("champion") == 1


@pytest.fixture
def server_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def start_server(tmp_path, server_port):
    """A function that starts a real MLflow server on `server_port`."""
    started = []

    def start():
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(server_port)]
        store = [
            "--backend-store-uri",
            f"sqlite:///{tmp_path}/server.db",
            "--artifacts-destination",
            str(tmp_path / "store"),
        ]
        with (tmp_path / "server.log").open("w") as log:
            process = subprocess.Popen(
                [*command, *store, "--workers", "1"],
                stdout=log,
                stderr=log,
                cwd=tmp_path,
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                start_new_session=True,
            )
        started.append(process)
        deadline = time.monotonic() + 120
        while True:
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{server_port}/health", timeout=1).read()
            except OSError:
                assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
                time.sleep(0.2)

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def test_a_run_without_its_tracking_server_is_kept_and_sent_later(workspace, server_port, start_server):
    uri = f"http://127.0.0.1:{server_port}"
    away = workspace.gapgate("run", "digits", *QUICK, MLFLOW_TRACKING_URI=uri)
    assert away.returncode == 4, away.stdout + away.stderr
    assert "gapgate sync" in away.stdout
    assert "gate: pass" in away.stdout
    still_away = workspace.gapgate("sync", MLFLOW_TRACKING_URI=uri)
    assert still_away.returncode == 4
    start_server()
    synced = workspace.gapgate("sync", MLFLOW_TRACKING_URI=uri)
    assert synced.returncode == 0, synced.stdout + synced.stderr
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("gapgate").experiment_id])
    assert run.info.status == "FINISHED"
    assert len(client.get_metric_history(run.info.run_id, "val/accuracy")) == 4
    assert client.get_model_version_by_alias("gapgate", "champion").run_id == run.info.run_id
    assert workspace.one("*/artifacts/*/package/bento/model.bento").exists()
    again = workspace.gapgate("sync", MLFLOW_TRACKING_URI=uri)
    assert "nothing is waiting" in again.stdout
