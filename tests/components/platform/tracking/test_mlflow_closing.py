"""Closing the MLflow runs of steps that were killed, on a real store and with the answers of a real KFP."""

from __future__ import annotations

import os
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow.entities import Run

from components import close
from components.platform.run_context import RunContext
from components.platform.tracking import mlflow_client, mlflow_closing, mlflow_runs
from components.platform.tracking.spool import Spool
from gapgate.errors import TrackingError
from tests.pipelines.kubeflow.kfp_server import KfpServer


def fetch(run: str) -> Run:
    return mlflow_client.client().get_run(run)


def test_runs_whose_pods_are_gone_are_closed_as_kfp_says_and_others_are_left(
    home: Path, kfp: KfpServer, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = {"cancelled": "KILLED", "cancelled_while_waiting": "KILLED", "ingest_failed": "FAILED"}
    ended |= {"passed": "FINISHED", "stopped_by_gate": "FINISHED"}
    closed = {kfp.record(name): status for name, status in ended.items()}
    closed["deleted-in-kfp"] = "KILLED"
    expected = {**closed, kfp.record("waits_for_secret"): "RUNNING"}
    runs = {name: mlflow_runs.send(RunContext(name)) for name in expected}
    assert close.main() == 0
    assert {name: fetch(run).info.status for name, run in runs.items()} == expected
    said = {f"gapgate: close: run {name} is closed as {status}" for name, status in closed.items()}
    assert set(capsys.readouterr().out.splitlines()) == said
    calls = len(kfp.calls)
    assert close.main() == 0
    assert len(kfp.calls) - calls <= 2  # those that are closed are not asked for again
    assert not capsys.readouterr().out


def test_a_damaged_record_keeps_no_other_run_open(home: Path, kfp: KfpServer) -> None:
    runs = {name: mlflow_runs.send(RunContext(name)) for name in (kfp.record("ingest_failed"), kfp.record("cancelled"))}
    damaged, other = runs
    record = RunContext(damaged).spool / mlflow_runs.STATE
    record.write_text(record.read_text().replace("run_id", "run_iD"))
    assert mlflow_closing.end_lost() == {other: "KILLED"}
    assert fetch(runs[damaged]).info.status == "RUNNING"


def test_a_run_whose_cancel_never_ends_is_closed_once_its_steps_are_silent(home: Path, kfp: KfpServer) -> None:
    # As KFP 2.17 has it for ever, when the workflow of a run was deleted.
    left, at_work = kfp.record("cancelled"), kfp.record("waits_for_secret")
    now = time.time()
    for name, age_s in ((left, 300), (at_work, 20)):
        kfp.runs[name] |= {"state": "CANCELING", "finished_at": "1970-01-01T00:00:00Z"}
        Spool(RunContext(name).spool, "train").metrics({"train/loss": 1.0}, 1)
        os.utime(RunContext(name).spool / "train.jsonl", (now - age_s, now - age_s))
        mlflow_runs.send(RunContext(name))
    assert mlflow_closing.end_lost() == {left: "KILLED"}


def test_a_proxys_404_ends_no_run(home: Path, kfp: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow_runs.send(RunContext("r1"))
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", f"http://127.0.0.1:{proxy.server_port}")
        assert mlflow_closing.end_lost() == {}
        proxy.shutdown()


def test_a_run_that_mlflow_has_never_heard_of_is_sent_to_its_experiment(home: Path, kfp: KfpServer) -> None:
    lost = kfp.record("ingest_failed")
    kfp.runs[lost]["runtime_config"]["parameters"]["experiment"] = "flowers"
    Spool(RunContext(lost).spool, "resolve").started()
    assert mlflow_closing.end_lost() == {lost: "FAILED"}
    found = mlflow_client.client().get_experiment_by_name("flowers")
    assert found
    (run,) = mlflow_client.client().search_runs([found.experiment_id], f"tags.`gapgate.run` = '{lost}'")
    assert run.info.status == "FAILED"


def test_a_server_that_is_away_is_one_line(
    home: Path, kfp: KfpServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mlflow_runs.send(RunContext(kfp.record("cancelled")))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert close.main() == TrackingError.exit_code
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("gapgate: close: error: ")


def test_a_run_is_closed_by_its_name_from_another_machine(home: Path) -> None:
    assert not mlflow_closing.kill_named("gapgate", "r1")
    run = mlflow_runs.send(RunContext("r1"))
    assert mlflow_closing.kill_named("gapgate", "r1")
    assert fetch(run).info.status == "KILLED"
    assert not mlflow_closing.kill_named("elsewhere", "r1")
