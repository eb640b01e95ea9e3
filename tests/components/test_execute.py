"""A step with nobody beside it who speaks to MLflow, as in a pod."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import mlflow
import pytest

from components.execute import _send_rest, execute, load, make
from components.platform.run_context import RunContext
from components.platform.step_log import ending_in
from gapgate import artifacts
from gapgate.artifacts import RUN_VARIABLE
from gapgate.errors import DataError, TrackingError
from gapgate.settings.sections import DataSettings, PreprocessSettings
from gapgate.tracking import NullTracker
from tests.golden.stored import SCHEMA_1
from tests.serving import packaged

TRAIN = """
import json, sys
from components.execute import execute
execute("ingest", json.dumps({"source": "digits"}), {}, "dataset")
execute("preprocess", "{}", {"dataset": "dataset"}, "splits")
execute("augment", "{}", {"splits": "splits"}, "policy")
execute("train", json.dumps({"epochs": 5000}), {"splits": "splits", "policy": "policy"}, "model")
"""


def test_a_step_that_is_cancelled_says_so_and_what_it_had_reported_arrives(tmp_path):
    store = f"sqlite:///{tmp_path}/tracking.db"
    environment = {"GAPGATE_RUN": "cancelled", "GAPGATE_HOME": str(tmp_path / "home"), "MLFLOW_TRACKING_URI": store}
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN], cwd=tmp_path, env=os.environ | environment, stderr=subprocess.PIPE, text=True
    )
    report = tmp_path / "home/runs/cancelled/spool/train.jsonl"
    deadline = time.monotonic() + 120
    while not (report.exists() and '"metrics"' in report.read_text()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    client = mlflow.MlflowClient(store)
    (found,) = client.search_runs([client.get_experiment_by_name("gapgate").experiment_id])
    assert found.info.status == "FAILED"
    assert found.data.metrics["val/accuracy"] > 0


def test_what_the_last_step_of_a_pipeline_has_to_report_must_arrive(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GAPGATE_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    context = RunContext("away")
    context.spool.mkdir(parents=True)
    (context.spool / "package.jsonl").write_text(json.dumps({"kind": "started", "step": "package", "time": 0}) + "\n")
    with pytest.raises(TrackingError, match="does not answer"):
        _send_rest(context, True, must_arrive=True)
    _send_rest(context, None, must_arrive=True)  # a later step sends it
    assert "does not answer" in capsys.readouterr().out


def test_a_step_hashes_each_file_that_it_made_once(tmp_path, monkeypatch):
    hashed = []
    real = artifacts.sha256_file
    monkeypatch.setattr(artifacts, "sha256_file", lambda path: hashed.append(path.name) or real(path))
    dataset, _ = make("ingest", DataSettings(source="digits"), {}, tmp_path / "dataset", NullTracker())
    assert len(hashed) == len(list(dataset.path.rglob("*"))) - 2  # all but the folder `files` and the manifest
    assert set(hashed) >= {"dataset.json", "files.sha256", "images.npy"}
    hashed.clear()
    splits, facts = make("preprocess", PreprocessSettings(), {"dataset": dataset}, tmp_path / "splits", NullTracker())
    assert sorted(hashed) == sorted(splits.manifest.files)
    assert facts.summary.startswith("1,")
    assert splits == artifacts.load(tmp_path / "splits", "splits")


def test_a_step_that_fails_leaves_no_artifact_and_none_that_is_half_made(tmp_path):
    make("ingest", DataSettings(source="digits"), {}, tmp_path / "dataset", NullTracker())
    inputs = load({"dataset": str(tmp_path / "dataset")})
    with pytest.raises(DataError, match="min_class_images"):
        make("preprocess", PreprocessSettings(min_class_images=10_000), inputs, tmp_path / "splits", NullTracker())
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # importing mlflow.onnx
def test_the_checks_of_the_gate_and_the_receipt_are_in_the_log_of_a_step_that_runs_alone(
    tmp_path, home, monkeypatch, capsys
):
    monkeypatch.setenv(RUN_VARIABLE, "alone")
    with artifacts.create(tmp_path / "evaluation", kind="evaluation", step="evaluate", settings={}, inputs={}) as made:
        shutil.copyfile(SCHEMA_1 / "evaluation" / "evaluation.json", made / "evaluation.json")
    judged = execute("gate", "{}", {"evaluation": str(tmp_path / "evaluation")}, str(tmp_path / "certificate"))
    certificate = judged.read_json("certificate.json")
    ending = ending_in(capsys.readouterr().out)
    assert [line.split()[:2] for line in ending.details] == [
        [check["verdict"], check["name"]] for check in certificate["checks"]
    ]
    assert ending.summary.startswith(f"{certificate['verdict']}: ")
    packaged.inputs(tmp_path / "run")
    kinds = ("splits", "policy", "model", "evaluation", "certificate")
    inputs = {kind: str(tmp_path / "run" / kind) for kind in kinds}
    registered = execute("register", '{"model_name": "animals"}', inputs, str(tmp_path / "registration"))
    ending = ending_in(capsys.readouterr().out)
    assert ending.details == (f"receipt {registered.read_json('registration.json')['receipt']}",)
