"""The MLflow run of a pipeline run, filled from its spool: on a real store, and on a real server."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import shlex
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlflow.artifacts
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from components.platform.run_context import RunContext
from components.platform.tracking import mlflow_client, mlflow_experiments, mlflow_runs
from components.platform.tracking.spool import KEPT, Spool
from gapgate import summed_json
from gapgate.artifacts import code_revision
from gapgate.errors import TrackingError, TrackingRefusedError
from gapgate.tracking import NOTE_TAG
from tests.pipelines.kubeflow.kfp_server import KfpServer
from tests.serving.registry_server import RegistryServer, proxy

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def context(home: Path) -> RunContext:
    return RunContext("r1")


@pytest.fixture
def spool(context: RunContext) -> Spool:
    return Spool(context.spool, "train")


def fetch(run: str) -> Run:
    return mlflow_client.client().get_run(run)


def history(run: str, name: str) -> list[tuple[int, float]]:
    return sorted((each.step, each.value) for each in mlflow_client.client().get_metric_history(run, name))


def all_runs() -> list[Run]:
    client = mlflow_client.client()
    experiments = [each.experiment_id for each in client.search_experiments()]
    return list(client.search_runs(experiments))


def report(spool: Spool, *epochs: int) -> None:
    for epoch in epochs:
        spool.metrics({"val/accuracy": epoch / 10}, step=epoch)


def test_what_a_step_reports_becomes_one_mlflow_run(context: RunContext, spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>")
    report(spool, 1, 2)
    spool.params({"train.epochs": 2})
    spool.tags({"seed": "0"})
    spool.file(tmp_path / "report.html", "report")
    run = fetch(mlflow_runs.send(context))
    assert history(run.info.run_id, "val/accuracy") == [(1, 0.1), (2, 0.2)]
    assert run.data.params == {"train.epochs": "2"}
    assert run.data.tags.items() >= {("seed", "0"), ("gapgate.run", "r1")}
    assert (run.info.run_name, run.info.status) == ("r1", "RUNNING")
    assert [each.path for each in mlflow_client.client().list_artifacts(run.info.run_id, "report")] == [
        "report/report.html"
    ]
    assert mlflow_runs.run_id(context) == run.info.run_id
    assert mlflow_runs.run_url(context).endswith(f"/runs/{run.info.run_id}?workflowType=machine_learning")
    assert mlflow_runs.short_run_url(context) == f"http://127.0.0.1:5000/#/runs/{run.info.run_id}"


def test_sending_again_sends_only_what_is_new(context: RunContext, spool: Spool) -> None:
    report(spool, 1)
    spool.tags({"note": "a step's"})
    run = mlflow_runs.send(context)
    mlflow_client.client().set_tag(run, "note", "a person's")
    report(spool, 2)
    assert mlflow_runs.send(context) == mlflow_runs.send(context) == run
    assert history(run, "val/accuracy") == [(1, 0.1), (2, 0.2)]
    assert fetch(run).data.tags["note"] == "a person's"


@pytest.mark.parametrize("lost", ["the offsets", "the whole record"])
def test_what_is_sent_twice_after_a_kill_stands_once_in_the_run(context: RunContext, spool: Spool, lost: str) -> None:
    """The process may end between the last call to MLflow and the record of what was sent."""
    report(spool, 1, 2)
    run = mlflow_runs.send(context)
    record = context.spool / mlflow_runs.STATE
    if lost == "the offsets":
        summed_json.write(record, summed_json.read(record) | {"offsets": {}})
    else:
        record.unlink()
    assert mlflow_runs.send(context) == run
    assert history(run, "val/accuracy") == [(1, 0.1), (2, 0.2)]
    assert len(all_runs()) == 1


def test_senders_at_once_make_one_run_and_send_each_figure_once(context: RunContext, spool: Spool) -> None:
    report(spool, *range(1, 51))
    with ThreadPoolExecutor(4) as threads:
        runs = set(threads.map(lambda _: mlflow_runs.send(context), range(4)))
    (run,) = runs
    assert len(history(run, "val/accuracy")) == 50
    assert len(all_runs()) == 1


def test_a_sender_waits_for_the_one_before_it(context: RunContext, spool: Spool) -> None:
    report(spool, 1)
    sender = threading.Thread(target=mlflow_runs.send, args=[context])
    with (context.spool / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sender.start()
        sender.join(0.5)
        assert mlflow_runs.run_id(context) == ""
    sender.join()
    assert mlflow_runs.run_id(context)


def test_more_than_a_server_takes_in_a_call_is_sent_in_several(
    context: RunContext, spool: Spool, server: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses more than 1,000 metrics, 100 params or 100 tags in one call."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    spool.metrics({f"a/{number}": number for number in range(1203)})
    spool.params({f"train.p{number}": number for number in range(203)})
    spool.tags({f"t{number}": "x" for number in range(303)})
    data = fetch(mlflow_runs.send(context)).data
    assert {name: value for name, value in data.metrics.items() if name.startswith("a/")} == {
        f"a/{number}": number for number in range(1203)
    }
    assert len(data.params) == 203
    assert len([name for name in data.tags if name.startswith("t")]) == 303


def test_a_figure_that_is_no_number_and_a_long_value_hold_nothing_up(context: RunContext, spool: Spool) -> None:
    """An architecture given layer by layer has thousands of characters."""
    spool.metrics({"train/loss": float("nan")}, step=1)
    spool.params({"train.architecture": "x" * 20_000})
    spool.tags({"note": "y" * 20_000})
    spool.params({"train.epochs": 2})
    data = fetch(mlflow_runs.send(context)).data
    assert set(data.params["train.architecture"]) == {"x"}
    assert set(data.tags["note"]) == {"y"}
    assert data.params["train.epochs"] == "2"


def test_a_parameter_keeps_its_first_value_and_a_changed_one_becomes_a_tag(context: RunContext, spool: Spool) -> None:
    """As where DVC runs a step again with another setting."""
    spool.params({"train.epochs": 2, "train.seed": 0})
    mlflow_runs.send(context)
    spool.params({"train.epochs": 3, "train.seed": 0})
    data = fetch(mlflow_runs.send(context)).data
    assert data.params == {"train.epochs": "2", "train.seed": "0"}
    assert {name: value for name, value in data.tags.items() if name.endswith(".changed")} == {
        "train.epochs.changed": "3"
    }


def test_half_a_line_is_sent_when_it_is_whole(context: RunContext, spool: Spool) -> None:
    report(spool, 1)
    line = json.dumps({"kind": "metrics", "step": "train", "time": 1.0, "values": {"val/accuracy": 0.2}, "at": 2})
    with (context.spool / "train.jsonl").open("a") as file:
        file.write(line[:30])
        file.flush()
        run = mlflow_runs.send(context)
        assert history(run, "val/accuracy") == [(1, 0.1)]
        assert not mlflow_runs.is_sent(context)
        file.write(line[30:] + "\n")
    mlflow_runs.send(context)
    assert history(run, "val/accuracy") == [(1, 0.1), (2, 0.2)]


def test_a_kept_file_is_deleted_once_it_is_sent_and_no_other_file_is(context: RunContext, tmp_path: Path) -> None:
    given = tmp_path / "preview.png"
    given.write_text("x")
    Spool(context.spool, "augment", keep_files=True).file(given)
    Spool(context.spool, "train").file(given, "pictures")
    (kept,) = [path for path in (context.spool / KEPT).rglob("*") if path.is_file()]
    run = mlflow_runs.send(context)
    assert (kept.exists(), given.exists()) == (False, True)
    client = mlflow_client.client()
    assert {each.path for each in client.list_artifacts(run)} == {"preview.png", "pictures"}


def test_a_file_that_is_gone_is_passed_over(context: RunContext, spool: Spool, tmp_path: Path) -> None:
    spool.file(tmp_path / "gone.png")
    report(spool, 1)
    run = mlflow_runs.send(context)
    assert history(run, "val/accuracy") == [(1, 0.1)]
    assert mlflow_client.client().list_artifacts(run) == []


@pytest.mark.parametrize(("succeeded", "status"), [(True, "FINISHED"), (False, "FAILED")])
def test_the_end_of_a_run_sends_the_rest_and_closes_it(
    context: RunContext, spool: Spool, succeeded: bool, status: str
) -> None:
    report(spool, 1)
    mlflow_runs.send(context)
    assert not mlflow_runs.is_sent(context)
    report(spool, 2)
    mlflow_runs.finish(context, succeeded=succeeded)
    run = fetch(mlflow_runs.run_id(context))
    assert (run.info.status, len(history(run.info.run_id, "val/accuracy"))) == (status, 2)
    assert mlflow_runs.is_sent(context)
    report(spool, 3)
    assert not mlflow_runs.is_sent(context)


def test_a_run_that_the_platform_began_is_gone_on_with(
    context: RunContext, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mlflow_client.client()
    begun = client.create_run(mlflow_experiments.experiment_id(client, "elsewhere")).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", begun)
    report(spool, 1)
    assert mlflow_runs.send(context) == begun
    assert [run.info.run_id for run in all_runs()] == [begun]


def test_runs_of_other_names_are_other_runs_of_one_experiment(home: Path) -> None:
    runs = [mlflow_runs.send(RunContext(name, "animals")) for name in ("r1", "r2")]
    assert len(set(runs)) == 2
    assert len({fetch(run).info.experiment_id for run in runs}) == 1
    experiment = mlflow_client.client().get_experiment_by_name("animals")
    assert experiment.artifact_location == (home / "mlartifacts").as_uri()


def test_a_store_that_a_killed_run_left_half_made_is_made_anew(empty_store: Path) -> None:
    assert MlflowClient(f"sqlite:///{empty_store}").search_experiments(max_results=1)
    assert sorted(path.name for path in empty_store.parent.glob("*mlflow*")) == ["mlflow.db", "mlflow.lock"]


def test_without_a_server_nothing_is_lost_and_no_run_is_recorded(
    context: RunContext, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    report(spool, 1)
    with pytest.raises(TrackingError, match=f"{NOWHERE} does not answer; .* `gapgate sync` sends it later"):
        mlflow_runs.finish(context, succeeded=True)
    assert mlflow_runs.run_id(context) == mlflow_runs.run_url(context) == mlflow_runs.short_run_url(context) == ""
    assert not mlflow_runs.is_sent(context)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    mlflow_runs.finish(context, succeeded=True)
    assert history(mlflow_runs.run_id(context), "val/accuracy") == [(1, 0.1)]


def test_what_is_reported_while_a_server_is_away_arrives_once_when_it_is_back(
    home: Path, server: RegistryServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    context = RunContext("r2")
    spool = Spool(context.spool, "train", keep_files=True)
    report(spool, 1, 2)
    run = mlflow_runs.send(context)
    (tmp_path / "report.html").write_text("<p>")
    report(spool, 3)
    spool.file(tmp_path / "report.html", "report")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)  # to its client a server that is down for a while is no other
    for _ in range(2):
        with pytest.raises(TrackingError, match="does not answer"):
            mlflow_runs.send(context)
    kept = context.spool / KEPT / "train" / "report"
    assert [path.name for path in kept.iterdir()] == ["report.html"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    mlflow_runs.finish(context, succeeded=True)
    assert mlflow_runs.send(context) == run
    assert list(kept.iterdir()) == []
    client = MlflowClient(server.url)
    found: list[Any] = client.get_metric_history(run, "val/accuracy")
    assert sorted((each.step, each.value) for each in found) == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert [each.path for each in client.list_artifacts(run, "report")] == ["report/report.html"]
    assert client.get_run(run).info.status == "FINISHED"


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_is_closed_with_the_status_that_it_ended_with(context: RunContext, spool: Spool, status: Any) -> None:
    report(spool, 1)
    mlflow_runs.send_and_mark(context, status)
    assert fetch(mlflow_runs.run_id(context)).info.status == status
    assert mlflow_runs.is_sent(context)


def test_a_deleted_experiment_is_found_before_a_run_and_the_command_brings_it_back(
    context: RunContext, spool: Spool
) -> None:
    mlflow_experiments.refuse_deleted_experiment("gapgate")  # there is none yet
    client = mlflow_client.client()
    client.delete_experiment(mlflow_experiments.experiment_id(client, "gapgate"))
    with pytest.raises(TrackingRefusedError, match="'gapgate' was deleted; bring it back with `") as caught:
        mlflow_experiments.refuse_deleted_experiment("gapgate")
    with pytest.raises(TrackingRefusedError, match="was deleted"):
        mlflow_runs.send(context)
    mlflow_experiments.refuse_deleted_experiment("another")
    store, *command = shlex.split(str(caught.value).split("`")[1])
    subprocess.run([sys.executable, "-m", *command], env=os.environ | dict([store.split("=", 1)]), check=True)
    mlflow_experiments.refuse_deleted_experiment("gapgate")
    mlflow_runs.send(context)


def test_a_server_is_asked_for_a_deleted_experiment(
    home: Path, server: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    client = mlflow_client.client()
    client.delete_experiment(mlflow_experiments.experiment_id(client, "gone"))
    with pytest.raises(TrackingRefusedError, match="`mlflow experiments restore --experiment-id"):
        mlflow_experiments.refuse_deleted_experiment("gone")
    for address, name in ((server.url, "never made"), (NOWHERE, "gone")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        mlflow_experiments.refuse_deleted_experiment(name)


def test_a_password_goes_before_a_token_in_each_call(server: RegistryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("USERNAME", "steps"), ("PASSWORD", "right"), ("TOKEN", "of another server")):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    with proxy(server, authorization="Basic c3RlcHM6cmlnaHQ=") as (address, seen):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        mlflow_experiments.refuse_deleted_experiment("any")
        mlflow_client.client().get_experiment_by_name("any")
    assert [headers["Authorization"] for headers in seen] == ["Basic c3RlcHM6cmlnaHQ="] * 2


def test_a_wrong_password_is_not_taken_for_a_server_that_is_away(
    context: RunContext, spool: Spool, server: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(spool, 1)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "steps")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with proxy(server, authorization="Basic c3RlcHM6cmlnaHQ=") as (address, seen):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(TrackingRefusedError, match=r"set MLFLOW_TRACKING_USERNAME and .*PASSWORD") as caught:
            mlflow_runs.send(context)
    assert "gapgate sync" not in str(caught.value)
    assert (caught.value.exit_code, caught.value.is_passing, len(seen)) == (2, False, 1)


def test_a_call_that_the_server_finds_wrong_is_refused_and_not_away(
    home: Path, server: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    with pytest.raises(TrackingRefusedError, match="refuses a call") as caught, mlflow_client.away_errors():
        mlflow_client.client().get_run("0" * 32)
    assert not caught.value.is_passing


def test_the_mlflow_run_of_a_pod_has_the_name_the_user_and_the_page_of_the_kfp_run(home: Path, kfp: KfpServer) -> None:
    run_id = kfp.record("passed")
    kfp.runs[run_id]["description"] = "digits; submitted by ana at https://kfp.example/pipeline; submission 38fb2e43"
    run = fetch(mlflow_runs.send(RunContext(run_id)))
    assert run.info.run_name == "gapgate-20261126-083236-c46d"
    page = f"https://kfp.example/pipeline/#/runs/details/{run_id}"
    assert run.data.tags.items() >= {
        ("gapgate.run", run_id),
        ("mlflow.user", "ana"),
        ("mlflow.note.content", f"[gapgate-20261126-083236-c46d in Kubeflow Pipelines]({page})"),
    }


def test_the_note_of_the_gate_ends_the_description_once_and_leaves_the_rest(home: Path, kfp: KfpServer) -> None:
    run_id = kfp.record("passed")
    kfp.runs[run_id]["description"] = "digits; submitted by ana at https://kfp.example/pipeline; submission 38fb2e43"
    context = RunContext(run_id)
    link = fetch(mlflow_runs.send(context)).data.tags["mlflow.note.content"]
    for verdict in ("fail", "pass"):
        Spool(context.spool, "gate").tags({NOTE_TAG: f"### Gate: {verdict}\n\n[report](run:report/report.html)"})
        run = fetch(mlflow_runs.send(context))
        place = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/report/report.html"
        assert run.data.tags["mlflow.note.content"] == f"{link}\n\n### Gate: {verdict}\n\n[report]({place})"
    assert NOTE_TAG not in run.data.tags


def test_the_name_of_a_run_that_the_gate_stopped_says_so_until_it_passes(context: RunContext, spool: Spool) -> None:
    names = []
    for verdict in ("fail", "undecided", "pass"):
        spool.tags({"gate.verdict": verdict, NOTE_TAG: f"### Gate: {verdict}"})
        names.append(fetch(mlflow_runs.send(context)).info.run_name)
    assert names == ["r1 (gate: fail)", "r1 (gate: undecided)", "r1"]


def test_the_splits_are_the_data_sets_of_a_run(context: RunContext, spool: Spool) -> None:
    spool.data("photos/cats", "33bf1a1fb9d9e5fd47d23074fa47c3ad.dir", {"train": 90, "val": 10, "test": 30}, ["a", "b"])
    run = fetch(mlflow_runs.send(context))
    found = {each.tags[0].value: each.dataset for each in run.inputs.dataset_inputs}
    assert {context: each.name for context, each in found.items()} == {
        "training": "cats, train, 90 images",
        "validation": "cats, val, 10 images",
        "test": "cats, test, 30 images",
    }
    assert {each.digest for each in found.values()} == {"33bf1a1fb9d9e5fd47d23074fa47c3ad.dir"}
    assert json.loads(found["test"].profile) == {"num_rows": 30, "num_classes": 2}
    assert json.loads(found["test"].source) == {"uri": "photos/cats"}


def test_a_run_names_its_command_its_user_and_its_code(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/gapgate", "run", "https://ana:secret@example.org/photos.zip"])
    tags = fetch(mlflow_runs.send(context)).data.tags
    assert tags["mlflow.source.name"].startswith("gapgate run https://")
    assert "secret" not in tags["mlflow.source.name"]
    assert tags["mlflow.source.type"] == "LOCAL"
    assert tags["mlflow.source.git.commit"] == code_revision().partition("+")[0]
    assert tags["mlflow.user"] == getpass.getuser()


def test_images_have_their_key_and_step_and_come_from_a_disk_that_is_gone(context: RunContext, tmp_path: Path) -> None:
    spool = Spool(context.spool, "train", keep_files=True)
    for epoch in (1, 4):
        Image.new("RGB", (8, 8), (epoch, 0, 0)).save(tmp_path / "sample.png")
        spool.image(tmp_path / "sample.png", "val/sample", epoch)
    (tmp_path / "sample.png").unlink()
    run = fetch(mlflow_runs.send(context))
    names = [each.path for each in mlflow_client.client().list_artifacts(run.info.run_id, "images")]
    assert sorted(name.split("+timestamp")[0] for name in names if name.endswith(".png")) == [
        "images/val~sample+step+1",
        "images/val~sample+step+4",
    ]
    assert run.data.tags["mlflow.loggedImages"] == "True"
    assert not [each for each in (context.spool / KEPT).rglob("*") if each.is_file()]


def test_a_picture_that_is_no_file_is_sent_from_the_spool_and_leaves_nothing_there(context: RunContext) -> None:
    spool = Spool(context.spool, "train")
    for epoch in (1, 5):
        spool.drawing(Image.new("RGB", (8, 8), (epoch, 0, 0)), "predictions on validation images", epoch)
    run = fetch(mlflow_runs.send(context))
    found = [each.path for each in mlflow_client.client().list_artifacts(run.info.run_id, "images")]
    assert sorted(name.split("+timestamp")[0] for name in found if name.endswith(".png")) == [
        "images/predictions on validation images+step+1",
        "images/predictions on validation images+step+5",
    ]
    assert not [each for each in (context.spool / KEPT).rglob("*") if each.is_file()]


def test_a_run_that_was_started_in_another_way_has_its_name_alone(home: Path, kfp: KfpServer) -> None:
    run = fetch(mlflow_runs.send(RunContext(kfp.record("passed"))))
    assert run.info.run_name == "gapgate-20261126-083236-c46d"
    assert "mlflow.note.content" not in run.data.tags


def test_without_an_answer_of_kfp_the_mlflow_run_has_the_id_as_its_name(
    home: Path, kfp: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fetch(mlflow_runs.send(RunContext("unknown-to-kfp"))).info.run_name == "unknown-to-kfp"
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", NOWHERE)
    assert fetch(mlflow_runs.send(RunContext("r2"))).info.run_name == "r2"


def test_artifacts_come_by_the_server_also_where_it_has_them_in_s3(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A server with S3 offers an address there, which a pod may not reach."""

    class WithS3(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers = {
                "/server-info": {"multipart_downloads_enabled": True},
                "/presigned/": {"url": f"{NOWHERE}/bucket/a.txt", "headers": {}, "file_size": 1},
                "?path=": {"files": []},
            }
            found = [json.dumps(answer) for part, answer in answers.items() if part in self.path]
            body = "".join(found or "x").encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    for name in ("DOWNLOAD", "UPLOAD"):
        monkeypatch.delenv(f"MLFLOW_ENABLE_PROXY_MULTIPART_{name}", raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), WithS3) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        mlflow_client.client()
        found = mlflow.artifacts.download_artifacts("mlflow-artifacts:/1/a.txt", dst_path=str(tmp_path))
        server.shutdown()
    assert Path(found).read_text() == "x"
