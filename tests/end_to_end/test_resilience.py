"""Interrupted, by Ctrl-C or SIGTERM; tests/faults has the other faults."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import mlflow

from tests.end_to_end.workspace import QUICK
from tests.waiting import wait_for


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


def ended(workspace, name):
    """Wait until no process of the run is left."""

    def is_gone():
        environments = []
        for file in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                environments.append(file.read_bytes())
        return not any(f"GAPGATE_RUN={name}\0".encode() in each for each in environments)

    wait_for(is_gone)


def test_a_step_ends_with_its_run_at_sigterm_and_the_run_is_closed_as_killed(workspace, tmp_path):
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
    run.terminate()
    assert run.wait(60) == 130
    ended(workspace, name)
    listed = workspace.gapgate("models")
    assert "no model is registered yet" in listed.stdout
    client = mlflow.MlflowClient(f"sqlite:///{workspace.folder}/.gapgate/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("gapgate").experiment_id])
    assert found.info.status == "KILLED"
    assert list(place.iterdir()) == []
    assert "nothing is waiting" in workspace.gapgate("sync").stdout
