"""A tracking server whose calls are dropped, answered with 500, slow, or done without an answer: `gapgate sync`
finishes everything as soon as it can, once."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.workspace import sync
from components.platform.registry.mlflow_registry import Registry
from components.platform.run_context import RunContext
from components.platform.tracking import mlflow_client
from components.platform.tracking.spool import Reader
from gapgate import summed_json
from gapgate.artifacts import sha256_file
from tests.faults.faulty_server import FAULTS, TIMEOUT_S, Proxy
from tests.faults.settings import IS_ALL, SEED
from tests.faults.workspaces import RUN, FaultWorkspace

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # importing mlflow.onnx

CALLS = (
    "GET experiments/get-by-name",
    "POST experiments/create",
    "POST runs/search",
    "POST runs/create",
    "GET runs/get",
    "POST runs/log-inputs",
    "POST runs/log-batch",
    "PUT artifacts/FILE",
    "POST logged-models",
    "GET logged-models/ID",
    "PUT artifacts/MLmodel",
    "PATCH logged-models/ID",
    "POST runs/outputs",
    "GET registered-models/get",
    "POST registered-models/create",
    "POST registered-models/set-tag",
    "DELETE registered-models/delete-tag",
    "GET model-versions/search",
    "POST model-versions/create",
    "POST model-versions/set-tag",
    "PUT artifacts/receipt.json",
    "POST runs/set-tag",
    "PUT artifacts/model.bento",
    "GET artifacts",
    "GET artifacts/model.bento",
    "POST logged-models/search",
    "GET registered-models/alias",
    "POST registered-models/alias",
    "POST runs/update",
)
"""Kinds of the calls of a run from its first report to its champion."""
ONCE = ("GET /api/3.0/mlflow/server-info",)
"""Kinds of calls that MLflow's client makes once a process."""
SAMPLE = ("POST model-versions/create",)


@pytest.fixture
def waiting(
    undisturbed: Any, faulty: Proxy, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> FaultWorkspace:
    """A workspace with a run whose server was away, of which nothing is sent: with names of its own on the server."""
    workspace: FaultWorkspace = undisturbed.away.copy(tmp_path)
    (run,) = workspace.runs()
    settings = json.loads((run / "settings.json").read_text())
    settings["tracking"]["experiment"] = settings["registry"]["model_name"] = tmp_path.name
    (run / "settings.json").write_text(json.dumps(settings))
    result = summed_json.read(run / "result.json")
    summed_json.write(run / "result.json", result | {"settings": sha256_file(run / "settings.json")})
    monkeypatch.setenv("GAPGATE_HOME", str(workspace.home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", faulty.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(TIMEOUT_S))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    faulty.heal()
    return workspace


def exit_code() -> int:
    """Exit code of `gapgate sync`."""
    try:
        sync()
    except typer.Exit as ended:
        return ended.exit_code
    return 0


@pytest.mark.parametrize("call", CALLS if IS_ALL else SAMPLE)
def test_whatever_happens_to_a_call_sync_finishes_everything_once(
    call: str, waiting: FaultWorkspace, faulty: Proxy, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    drawn = random.Random(f"{SEED} {call}")
    for fault in drawn.sample(FAULTS, len(FAULTS)):
        print(f"GAPGATE_FAULTS_SEED={SEED}: {fault} {call}")
        record_property("faults", f"server: {fault}")
        before = len(faulty.disturbed)
        faulty.disturb(call, fault, times=10**6)
        code = exit_code()
        assert code in (0, 4)
        # Nothing that was disturbed is taken for done, but a call whose answer nobody needs.
        if code == 0:
            faulty.heal()
            check_all_is_there(waiting)
        else:
            assert len(faulty.disturbed) > before
    faulty.heal()
    # A server's answer may be so slow that it is given up under a load; what is left is done at the next try.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    assert exit_code() == 0
    check_all_is_there(waiting)


def test_each_kind_of_call_has_its_trial(
    waiting: FaultWorkspace, faulty: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    begin = len(faulty.seen)
    assert exit_code() == 0
    assert set(faulty.seen[begin:]) - set(ONCE) == set(CALLS)


@pytest.mark.skipif(not IS_ALL, reason="`make faults` runs it")
@pytest.mark.parametrize("number", range(4))
def test_a_run_before_a_server_with_faults_ends_and_sync_finishes_it(
    number: int, waiting: FaultWorkspace, faulty: Proxy, tmp_path: Path, undisturbed: Any, record_property: Any
) -> None:
    """A fifth of all calls is disturbed while the whole run is at work."""
    workspace = FaultWorkspace(tmp_path / "other").make()
    names = ("--set", f"tracking.experiment={tmp_path.name}o", "--set", f"registry.model_name={tmp_path.name}o")
    faulty.drawn = random.Random(f"{SEED} {number}")
    faulty.chance = 0.2
    before = len(faulty.disturbed)
    done = workspace.gapgate(
        *RUN,
        *names,
        MLFLOW_TRACKING_URI=faulty.url,
        MLFLOW_HTTP_REQUEST_TIMEOUT="5",
    )
    faulty.heal()
    for disturbed in faulty.disturbed[before:]:
        record_property("faults", f"server: {disturbed.partition(' ')[0]}")
    assert done.returncode in (0, 4), done.stdout + done.stderr
    (run,) = workspace.runs()
    assert workspace.digests(run) == undisturbed.digests
    synced = workspace.gapgate("sync", MLFLOW_TRACKING_URI=faulty.url)
    assert synced.returncode == 0, synced.stdout + synced.stderr
    assert list(workspace.temporary.iterdir()) == []


def check_all_is_there(workspace: FaultWorkspace) -> None:
    """The MLflow run has every figure and file, once, and its model is the champion with its package."""
    (run,) = workspace.runs()
    settings = json.loads((run / "settings.json").read_text())
    context = RunContext(run.name, settings["tracking"]["experiment"])
    client = mlflow_client.client()
    experiment = client.get_experiment_by_name(context.experiment)
    assert experiment
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    events = list(Reader(context.spool).read())
    reported = [event for event in events if event["kind"] == "metrics"]
    metrics = Counter((name, value, event["at"]) for event in reported for name, value in event["values"].items())
    kept = Counter(
        (name, point.value, point.step)
        for name in found.data.metrics
        for point in client.get_metric_history(found.info.run_id, name)
    )
    assert kept == metrics
    params = [item for event in events if event["kind"] == "params" for item in event["values"].items()]
    for name in dict(params):
        assert (name, found.data.params[name]) in params  # of two tries, one
    splits = [split for event in events if event["kind"] == "data" for split in event["num_images"]]
    assert len(found.inputs.dataset_inputs) == len(splits) > 0
    files = {str(Path(event["folder"], Path(event["path"]).name)) for event in events if event["kind"] == "file"}
    folders = {str(Path(file).parent) for file in files}
    listed = {each.path for folder in folders for each in client.list_artifacts(found.info.run_id, folder)}
    assert files <= listed
    registry = Registry()
    name = settings["registry"]["model_name"]
    (version,) = registry.versions(name)
    assert version.aliases == ("champion",)
    registry.package(version, run / "fetched")
    assert exit_code() == 0
    assert json.loads((run / "result.json").read_text())["exit_code"] == 0
