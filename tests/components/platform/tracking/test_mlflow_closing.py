"""Closing the MLflow runs of steps that were killed, on a real store and with the answers of a real KFP."""

from __future__ import annotations

from pathlib import Path

from mlflow.entities import Run

from components.platform.run_context import RunContext
from components.platform.tracking import mlflow_client, mlflow_closing, mlflow_runs
from tests.pipelines.kubeflow.kfp_server import KfpServer


def fetch(run: str) -> Run:
    return mlflow_client.client().get_run(run)


def test_runs_whose_pods_are_gone_are_closed_as_kfp_says_and_others_are_left(home: Path, kfp: KfpServer) -> None:
    ended = {"cancelled": "KILLED", "cancelled_while_waiting": "KILLED", "ingest_failed": "FAILED"}
    expected = {kfp.record(name): status for name, status in ended.items()}
    expected |= {kfp.record("waits_for_secret"): "RUNNING", "unknown-to-kfp": "RUNNING"}
    runs = {name: mlflow_runs.send(RunContext(name)) for name in expected}
    mlflow_closing.end_lost()
    assert {name: fetch(run).info.status for name, run in runs.items()} == expected
    calls = len(kfp.calls)
    mlflow_closing.end_lost()
    assert len(kfp.calls) - calls <= 2  # those that are closed are not asked for again


def test_a_run_is_closed_by_its_name_from_another_machine(home: Path) -> None:
    assert not mlflow_closing.kill_named("gapgate", "r1")
    run = mlflow_runs.send(RunContext("r1"))
    assert mlflow_closing.kill_named("gapgate", "r1")
    assert fetch(run).info.status == "KILLED"
    assert not mlflow_closing.kill_named("elsewhere", "r1")
