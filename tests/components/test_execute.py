"""A step with nobody beside it who speaks to MLflow, as in a pod."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
from dvc.repo import Repo
from PIL import Image

from components.catalog import STEPS
from components.execute import _send_rest, execute, execute_in_pipeline, load, make
from components.platform.run_context import DRAINED_VARIABLE, RunContext
from components.platform.step_log import ending_in
from components.platform.tracking import mlflow_runs
from components.platform.tracking.spool import Spool
from components.tries import AtOnce
from gapgate import artifacts
from gapgate.artifacts import RUN_VARIABLE
from gapgate.errors import DataError, RemoteAwayError, TrackingError
from gapgate.evidence.advice import in_lines
from gapgate.process import child_server, fork_server
from gapgate.settings.sections import DataSettings, PreprocessSettings
from gapgate.tracking import NullTracker
from tests.golden.stored import SCHEMA_1
from tests.serving import packaged
from tests.serving.registry_server import proxy
from tests.waiting import wait_for

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
    assert found.info.status == "KILLED"
    assert found.data.metrics["val/accuracy"] > 0


def test_what_the_last_step_of_a_pipeline_has_to_report_must_arrive(home, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    context = RunContext("away")
    spool = Spool(context.spool, "package")
    spool.started()
    with pytest.raises(TrackingError, match="does not answer"):
        _send_rest(context, "FINISHED", spool, AtOnce(), must_arrive=True)
    _send_rest(context, "RUNNING", spool, AtOnce(), must_arrive=True)  # a later step sends it
    assert "does not answer" in capsys.readouterr().out


@pytest.fixture
def pod(home, monkeypatch, tmp_path):
    """The environment of a pod, of a run of this test's own; its pauses begin at a fifth of a second."""
    monkeypatch.setenv("GAPGATE_RUN", tmp_path.name)
    monkeypatch.setattr("components.tries._FIRST_PAUSE_S", 0.2)
    monkeypatch.setattr("components.tries._LONGEST_PAUSE_S", 1)
    return RunContext(tmp_path.name)


@contextmanager
def when_it_waits(context, step, begin):
    """Call `begin` once the step waits for a server that is away."""

    def watch():
        wait_for(lambda: bool(events(context, step, "waiting")))
        begin()

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    thread.join()


def events(context, step, kind):
    file = context.spool / f"{step}.jsonl"
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [event for event in found if event["kind"] == kind]


def test_a_step_in_a_pod_tries_a_git_server_again_that_is_away_for_a_while(pod, tmp_path, capsys):
    root, port = tmp_path / "served" / "images", child_server.free_port()
    pinned(root)
    begun = []

    def begin():
        command = ["git", "daemon", "--export-all", f"--base-path={root.parent}", "--listen=127.0.0.1"]
        begun.append(child_server.start([*command, f"--port={port}"], tmp_path / "daemon.log"))

    settings = json.dumps({"repository": f"git://127.0.0.1:{port}/images"})
    try:
        with when_it_waits(pod, "ingest", begin):
            made = execute_in_pipeline("ingest", settings, {}, str(tmp_path / "dataset"))
    finally:
        for daemon in begun:
            child_server.stop(daemon, whole_group=True)
    assert made.read_json("dataset.json")["revision"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("gapgate: ingest: git cannot get data at HEAD of git://127.0.0.1:")
    assert printed[0].endswith("/images: the connection is refused; tried again in 0 s")
    assert printed[-1].startswith("gapgate: ingest: done in ")
    assert len(events(pod, "ingest", "started")) == len(events(pod, "ingest", "finished")) == 1


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # importing mlflow.onnx
def test_a_step_in_a_pod_tries_an_mlflow_again_that_is_away_for_a_while(pod, tmp_path, server, monkeypatch, capsys):
    packaged.inputs(tmp_path / "made")
    inputs = {kind: str(tmp_path / "made" / kind) for kind in STEPS["register"].inputs}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    server.stop()
    with when_it_waits(pod, "register", server.start):
        settings = json.dumps({"model_name": "waited-for"})
        made = execute_in_pipeline("register", settings, inputs, str(tmp_path / "registration"))
    assert made.read_json("registration.json")["version"] == "1"
    assert f"gapgate: register: {server.url} does not answer; tried again in " in capsys.readouterr().out


def test_after_the_artifact_only_the_sending_is_tried_again(pod, tmp_path, server, monkeypatch):
    monkeypatch.setattr("components.execute._outcome", lambda *_: "FINISHED")  # as of the last step
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # to its client a server that is down is no other
    with when_it_waits(pod, "ingest", lambda: os.environ.update(MLFLOW_TRACKING_URI=server.url)):
        execute_in_pipeline("ingest", json.dumps({"source": "digits"}), {}, str(tmp_path / "dataset"))
    assert len(events(pod, "ingest", "started")) == len(events(pod, "ingest", "finished")) == 1
    assert mlflow.MlflowClient(server.url).get_run(mlflow_runs.run_id(pod)).info.status == "FINISHED"


def test_a_fault_that_does_not_pass_in_time_has_its_own_exit_code(pod, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GAPGATE_PATIENCE_S", "0.5")
    settings = json.dumps({"repository": "http://127.0.0.1:9/images.git"})
    with pytest.raises(SystemExit) as ended:
        execute_in_pipeline("ingest", settings, {}, str(tmp_path / "dataset"))
    assert ended.value.code == 75
    assert [event["seconds"] for event in events(pod, "ingest", "waiting")] == [0.2, pytest.approx(0.3)]
    assert "gapgate: ingest: error (exit code 75): git cannot get data" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["long", "-1", "nan", "inf"])
def test_a_patience_that_is_no_number_of_seconds_is_a_mistake(pod, tmp_path, monkeypatch, capsys, given):
    monkeypatch.setenv("GAPGATE_PATIENCE_S", given)
    with pytest.raises(SystemExit) as ended:
        execute_in_pipeline("ingest", json.dumps({"source": "digits"}), {}, str(tmp_path / "dataset"))
    assert ended.value.code == 2
    said = f"gapgate: ingest: error (exit code 2): GAPGATE_PATIENCE_S={given} is no number of seconds; give 0 or more"
    assert capsys.readouterr().out.strip() == said


@pytest.mark.parametrize(("settings", "code"), [({"source": "nowhere"}, 2), ({"sauce": "digits"}, 2)])
def test_bad_input_is_never_tried_again(pod, tmp_path, capsys, settings, code):
    with pytest.raises(SystemExit) as ended:
        execute_in_pipeline("ingest", json.dumps(settings), {}, str(tmp_path / "dataset"))
    assert ended.value.code == code
    assert events(pod, "ingest", "waiting") == []
    assert f"gapgate: ingest: error (exit code {code}): " in capsys.readouterr().out


def test_a_wrong_password_ends_the_first_step_that_speaks_to_mlflow(pod, tmp_path, server, monkeypatch, capsys):
    with proxy(server, authorization="Basic other") as (address, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(SystemExit) as ended:
            execute_in_pipeline("ingest", json.dumps({"source": "digits"}), {}, str(tmp_path / "dataset"))
    assert ended.value.code == 2
    assert "gapgate: ingest: error (exit code 2): http://127.0.0.1" in capsys.readouterr().out


def test_on_a_users_machine_a_fault_is_raised_at_once(pod, tmp_path, monkeypatch):
    monkeypatch.setenv(DRAINED_VARIABLE, "1")
    monkeypatch.delenv(fork_server.VARIABLE, raising=False)
    settings = json.dumps({"repository": "http://127.0.0.1:9/images.git"})
    with pytest.raises(RemoteAwayError):
        execute_in_pipeline("ingest", settings, {}, str(tmp_path / "dataset"))
    assert events(pod, "ingest", "waiting") == []


def pinned(root):
    """A git repository with data under DVC, whose files are in a DVC remote beside it."""
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    (root / "data" / "cats").mkdir(parents=True)
    subprocess.run([*git, "init", "-q"], cwd=root, check=True)
    Image.new("L", (8, 8)).save(root / "data" / "cats" / "0.png")
    with Repo.init(str(root)) as repo:
        config = repo.config.files["repo"]
        Path(config).write_text(f"[core]\n    remote = s\n['remote \"s\"']\n    url = {root.parent}/files\n")
    with Repo(str(root)) as repo:
        repo.add(str(root / "data"))
        repo.push()
    subprocess.run([*git, "add", "-A"], cwd=root, check=True)
    subprocess.run([*git, "commit", "-qm", "pin"], cwd=root, check=True)


def test_a_step_hashes_each_file_that_it_made_once(tmp_path, monkeypatch):
    hashed = []
    real = artifacts.sha256_file
    monkeypatch.setattr(artifacts, "sha256_file", lambda path: hashed.append(path.name) or real(path))
    dataset, _ = make("ingest", DataSettings(source="digits"), {}, tmp_path / "dataset", NullTracker())
    assert len(hashed) == len(list(dataset.path.rglob("*"))) - 2  # all but the folder `files` and the manifest
    assert set(hashed) >= {"dataset.json", "files.sha256", "images.npy"}
    hashed.clear()
    splits, facts = make("preprocess", PreprocessSettings(), {"dataset": dataset}, tmp_path / "splits", NullTracker())
    assert sorted(hashed) == sorted(Path(file).name for file in splits.manifest.files)
    assert facts.summary == "1,195 train, 133 val, 469 test; 10 classes; 8×8×1; 1 group kept together"
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
    checks = [[check["verdict"], check["name"]] for check in certificate["checks"]]
    assert [line.split()[:2] for line in ending.details[: len(checks)]] == checks
    assert ending.details[len(checks) :] == ("what now", *in_lines(judged.read_json("advice.json")))
    assert ending.summary.startswith(f"{certificate['verdict']}: ")
    packaged.inputs(tmp_path / "run")
    kinds = ("splits", "policy", "model", "evaluation", "certificate")
    inputs = {kind: str(tmp_path / "run" / kind) for kind in kinds}
    registered = execute("register", '{"model_name": "animals"}', inputs, str(tmp_path / "registration"))
    ending = ending_in(capsys.readouterr().out)
    assert ending.details == (f"receipt {registered.read_json('registration.json')['receipt']}",)
