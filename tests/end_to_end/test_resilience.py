"""Killed, doubled, and without its tracking server."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import mlflow
import pytest

from gapgate import artifacts
from tests.end_to_end.workspace import QUICK
from tests.serving.registry_server import RegistryServer
from tests.waiting import wait_for

STEPS = ("train", "register")


def test_runs_killed_at_one_step_after_the_other_leave_nothing_in_the_way_of_the_next(workspace):
    for step in STEPS:
        spool = f".gapgate/runs/*/spool/{step}.jsonl"
        before = set(workspace.folder.glob(spool))
        run = workspace.start("run", "digits", *QUICK)
        try:
            wait_for(lambda spool=spool, before=before: set(workspace.folder.glob(spool)) > before, 300)
        finally:
            os.killpg(run.pid, signal.SIGKILL)
            said = run.communicate()
        assert run.returncode == -signal.SIGKILL, (step, said)
    last = workspace.gapgate("run", "digits", *QUICK)
    assert last.returncode == 0, last.stdout + last.stderr
    finished = list(workspace.folder.glob(".gapgate/runs/*/result.json"))
    assert len(finished) == 1


def test_a_killed_training_goes_on_and_ends_with_the_same_model(workspace):
    settings = (*QUICK, "--set", "train.epochs=12", "--set", "train.ema_decay=0.9")
    killed = workspace.start("run", "digits", *settings)
    try:
        wait_for(lambda: any(workspace.folder.glob(".gapgate/checkpoints/*/*.safetensors")), 120)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.communicate()
    for _ in range(2):
        done = workspace.gapgate("run", "digits", *settings)
        assert done.returncode == 0, done.stdout
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


def test_an_interrupted_run_says_how_it_goes_on_and_is_closed_as_killed(workspace):
    run = workspace.start("run", "digits", *QUICK, "--set", "train.epochs=200")
    wait_for(lambda: any(workspace.folder.glob(".gapgate/checkpoints/*/*.safetensors")), 120)
    os.killpg(run.pid, signal.SIGINT)
    printed, _ = run.communicate(timeout=300)
    assert run.returncode == 130
    assert "goes on from its last epoch" in printed
    assert "nothing is waiting" in workspace.gapgate("sync").stdout
    client = mlflow.MlflowClient(f"sqlite:///{workspace.folder}/.gapgate/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("gapgate").experiment_id])
    assert found.info.status == "KILLED"


def test_two_runs_at_once_both_end_and_leave_one_champion(new_workspace):
    runs = [new_workspace.start("run", "digits", *QUICK) for _ in range(2)]
    printed = [run.communicate(timeout=600) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], printed
    listed = new_workspace.gapgate("models").stdout
    assert listed.count("pass") == 1  # of one model there is one version
    assert listed.count("champion") == 1


@pytest.fixture
def server(tmp_path):
    """A real MLflow server that is not started."""
    found = RegistryServer(tmp_path)
    yield found
    found.stop()


def test_a_run_without_its_tracking_server_is_kept_and_sent_later(workspace, server):
    uri = server.url
    away = workspace.gapgate("run", "digits", *QUICK, MLFLOW_TRACKING_URI=uri)
    assert away.returncode == 4, away.stdout + away.stderr
    assert "gapgate sync" in away.stdout
    assert "gate: pass" in away.stdout
    still_away = workspace.gapgate("sync", MLFLOW_TRACKING_URI=uri)
    assert still_away.returncode == 4
    server.start()
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


def ended(workspace, name):
    """Wait until no process of the run is left."""

    def is_gone():
        environments = []
        for file in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                environments.append(file.read_bytes())
        return not any(f"GAPGATE_RUN={name}\0".encode() in each for each in environments)

    wait_for(is_gone)


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_a_step_ends_with_its_run_and_the_run_is_closed_as_killed(workspace, how, tmp_path):
    """SIGTERM to a process that was started with SIGINT ignored, as by `nohup` or `&`, and to none of its children."""
    place = tmp_path / "temporary"
    place.mkdir()
    arguments = ("run", "digits", *QUICK, "--set", "train.epochs=5000")
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *workspace.command(*arguments)]
    run = subprocess.Popen(
        command, cwd=workspace.folder, env=workspace.environment(TMPDIR=str(place)), stdout=subprocess.DEVNULL
    )
    state = workspace.folder / ".gapgate" / "runs"
    wait_for(lambda: any(state.glob("*/spool/mlflow.json")) and any(state.glob("*/spool/train.jsonl")), 240)
    (name,) = (folder.name for folder in state.iterdir())
    run.send_signal(getattr(signal, how))
    assert run.wait(60) == {"SIGKILL": -signal.SIGKILL, "SIGTERM": 130}[how]
    ended(workspace, name)
    listed = workspace.gapgate("models")
    assert "no model is registered yet" in listed.stdout
    client = mlflow.MlflowClient(f"sqlite:///{workspace.folder}/.gapgate/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("gapgate").experiment_id])
    assert found.info.status == "KILLED"
    assert list(place.iterdir()) == []
    assert "nothing is waiting" in workspace.gapgate("sync").stdout
