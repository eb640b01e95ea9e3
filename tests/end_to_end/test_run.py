"""`gapgate run` from a data set to a packaged model, and what a user does with it afterwards."""

import io
import json
import re
import tempfile
import urllib.request
from pathlib import Path

import mlflow
import pytest
import yaml
from PIL import Image

from gapgate import artifacts
from gapgate.data.splits import Splits
from serving.run import serve
from tests.end_to_end.workspace import QUICK


def test_the_table_names_everything_that_the_run_made(digits_run):
    workspace, printed = digits_run
    for word in (
        "train accuracy",
        "val accuracy",
        "test accuracy",
        "gap, train − test",
        "gate: pass",
        "max_gap_points",
    ):
        assert word in printed
    for step in ("ingest", "preprocess", "augment", "train", "evaluate", "gate", "register", "package"):
        assert re.search(rf"✓ {step}\b", printed)
    assert "gapgate version 1, champion" in printed
    # Whole, with its lead, in a window of 80 columns.
    assert all(len(line) <= 80 for line in printed.splitlines() if "/#/" in line or line.startswith("MLflow"))
    assert re.search(r"^MLflow  http://127\.0\.0\.1:5000/#/runs/[0-9a-f]{32}$", printed, re.M)
    for name in ("report.html", "model.bento"):
        (path,) = re.findall(rf"\S+{name}", printed)
        assert (workspace.folder / path).stat().st_size > 1000


def test_the_report_names_what_is_known_after_the_gate_and_can_be_written_again(digits_run):
    workspace, printed = digits_run
    (receipt,) = re.findall(r"receipt (sha256:\w{64})", printed)
    place = workspace.one("*/report.html")
    page = place.read_text()
    for said in ("gapgate version 1, champion", receipt, place.parent.name, "Passed: the model holds"):
        assert said in page
    # The artifact's own report is the same but for these lines, so that equal inputs keep equal bytes.
    plain = workspace.one("*/artifacts/*/gate/certificate/report.html").read_text()
    assert [line for line in page.splitlines() if line not in plain.splitlines()] == [
        line for line in page.splitlines() if re.match(r"<div><dt>(model|run|date|code|receipt)<", line)
    ]
    assert receipt not in plain
    done = workspace.gapgate("report", place.parent.name[:10], "--out", "again.html")
    assert done.returncode == 0, done.stderr
    assert (workspace.folder / "again.html").read_text() == page


def test_a_run_is_compared_with_itself_and_a_run_that_is_not_there_is_named(digits_run):
    workspace, _ = digits_run
    name = workspace.one("*/report.html").parent.name
    done = workspace.gapgate("compare", name, name, "--out", "both.html")
    assert done.returncode == 0, done.stderr
    page = (workspace.folder / "both.html").read_text()
    assert "show no difference" in page
    assert "None: both have the same settings." in page
    done = workspace.gapgate("compare", name, "19990101")
    assert done.returncode == 2
    assert "no run 19990101" in done.stderr


def test_accuracy_and_gap_are_those_of_the_evaluation(digits_run):
    workspace, printed = digits_run
    evaluation = artifacts.read_json(workspace.one("*/artifacts/*/evaluate/evaluation/evaluation.json"))
    assert f"test accuracy          {evaluation['accuracy']['test']['value']:.1%}".replace("%", " %") in printed
    assert f"{evaluation['gap']['points']:.1f} points" in printed
    assert evaluation["accuracy"]["test"]["value"] >= 0.98


def test_the_log_is_plain_text(digits_run):
    workspace, _ = digits_run
    assert "finished with status" in workspace.one("*/log.txt").read_text()
    assert "\x1b" not in workspace.one("*/log.txt").read_text()


def test_every_artifact_verifies_and_the_chain_is_whole(digits_run):
    workspace, _ = digits_run
    root = workspace.one("*/artifacts/*")
    digests, inputs = {}, {}
    for manifest in root.glob("*/*/manifest.json"):
        artifact = artifacts.load(manifest.parent, manifest.parent.name, verify_trees=True)
        digests[artifact.manifest.kind] = artifact.digest
        inputs[artifact.manifest.kind] = artifact.manifest.inputs
    assert len(digests) == 8
    for needed in inputs.values():
        for kind, digest in needed.items():
            assert digest == digests[kind]


def test_the_receipt_resolves_to_the_whole_lineage(digits_run):
    workspace, printed = digits_run
    (digest,) = re.findall(r"receipt\s+(sha256:[0-9a-f]{64})", printed)
    done = workspace.gapgate("receipt", digest.removeprefix("sha256:")[:10])
    content = json.loads(done.stdout[done.stdout.index("{") :])
    assert artifacts.digest_of(content) == digest
    assert content["model_version"] == "1"
    assert content["data"]["dvc_hash"].endswith(".dir")
    assert content["settings"]["train"]["epochs"] == "auto"
    assert set(content["artifacts"]) == {"dataset", "splits", "policy", "model", "evaluation", "certificate"}
    assert re.match(r"[0-9a-f]{40}|gapgate ", content["code_revision"])


def test_a_receipt_that_was_edited_is_refused(digits_run):
    workspace, _ = digits_run
    (file,) = (workspace.folder / ".gapgate" / "receipts").glob("*.json")
    original = file.read_text()
    file.write_text(original.replace('"pass"', '"fail"'))
    try:
        done = workspace.gapgate("receipt", file.stem)
    finally:
        file.write_text(original)
    assert done.returncode == 2
    assert "was changed" in done.stderr


def test_mlflow_holds_metrics_tags_and_the_report(digits_run):
    workspace, _ = digits_run
    state = artifacts.read_json(workspace.one("*/spool/mlflow.json"))
    client = mlflow.MlflowClient(f"sqlite:///{workspace.folder}/.gapgate/mlflow.db")
    run = client.get_run(state["run_id"])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "the first")
    assert len(client.get_metric_history(state["run_id"], "val/accuracy")) == 20
    assert {"gap/points", "test/accuracy"} <= set(run.data.metrics)
    assert run.data.params["data.test_images"] == "469"
    assert {"data.dvc_hash", "splits.digest", "code.revision", "gate.verdict", "seed", "receipt"} <= set(run.data.tags)
    assert run.data.params["train.epochs"] == "auto"
    assert run.data.params["resolved.train.epochs"] == "20"
    assert run.data.params["resolved.train.architecture"] == "small"
    assert {item.path for item in client.list_artifacts(state["run_id"])} >= {
        "report",
        "receipt",
        "data",
        "augmentation",
        "package",
    }
    # Sent last, over the one of the step `gate`, which knew neither version nor receipt.
    logged = Path(run.info.artifact_uri.removeprefix("file://"), "report", "report.html")
    assert logged.read_text() == workspace.one("*/report.html").read_text()
    facts = artifacts.read_json(workspace.one("*/artifacts/*/package/bento/package.json"))
    assert run.data.tags["package.digest"] == facts["package"]
    drawn = {path.name for path in workspace.one("*/artifacts/*/evaluate/evaluation/figures").glob("*.png")}
    assert len(drawn) >= 7
    assert {item.path for item in client.list_artifacts(state["run_id"], "figures")} == {f"figures/{n}" for n in drawn}


def test_the_checkpoints_of_a_finished_training_are_gone(digits_run):
    workspace, _ = digits_run
    assert not list(workspace.folder.glob(".gapgate/checkpoints/*/*"))


def test_the_bento_answers_like_the_model_that_was_evaluated(digits_run):
    workspace, _ = digits_run
    splits = Splits.open(workspace.one("*/artifacts/*/preprocess/splits"))
    bento = workspace.one("*/artifacts/*/package/bento/model.bento")
    rows = splits.rows("test")[:20]
    right = 0
    with tempfile.TemporaryDirectory() as work, serve(bento, port=0, work_dir=Path(work)) as server:
        server.wait_ready()
        for row in rows:
            buffer = io.BytesIO()
            Image.fromarray(splits.images[row, :, :, 0]).save(buffer, "PNG")
            request = urllib.request.Request(
                f"{server.url}/v1/predict", data=buffer.getvalue(), headers={"Content-Type": "image/png"}
            )
            with urllib.request.urlopen(request, timeout=60) as response:
                answer = json.load(response)
            right += answer["class"] == splits.class_names[splits.labels[row]]
    assert right >= 18
    assert (
        answer["receipt"] == artifacts.read_json(workspace.one("*/artifacts/*/package/bento/package.json"))["receipt"]
    )


def test_the_compiled_graph_is_kept_beside_the_run(digits_run):
    workspace, _ = digits_run
    spec = next(yaml.safe_load_all(workspace.one("*/pipeline.yaml").read_text()))
    assert spec["pipelineInfo"]["name"] == "gapgate-training"


@pytest.mark.parametrize("command", ["models", "clean"])
def test_one_champion_is_listed_and_nothing_of_it_is_freed(digits_run, command):
    workspace, _ = digits_run
    done = workspace.gapgate(*{"models": ["models"], "clean": ["clean", "--keep", "0", "--yes"]}[command])
    assert done.returncode == 0
    assert {"models": "champion", "clean": "nothing to free"}[command] in done.stdout
    assert "challenger" not in done.stdout
    assert workspace.one("*/artifacts/*/package/bento/model.bento").exists()


def test_a_second_run_is_compared_promoted_and_can_be_rolled_back_and_cleaned(workspace):
    """A worse model passes a loose gate but does not take the champion's place; an equal one with other limits does."""
    loose = ("--set", "gate.min_test_accuracy=0.1", "--set", "gate.min_class_recall=0.0", "--set", "gate.max_ece=1.0")
    worse = ("--set", "train.epochs=1", "--set", "train.learning_rate=0.0003", "--set", "gate.max_gap_points=30")
    first = workspace.gapgate("run", "digits", *QUICK)
    second = workspace.gapgate("run", "digits", *QUICK, *loose, *worse)
    third = workspace.gapgate("run", "digits", *QUICK, "--set", "gate.max_ece=0.9")
    assert [first.returncode, second.returncode, third.returncode] == [0, 0, 0], second.stdout
    assert "version 2, challenger: against version 1" in second.stdout
    assert "version 3, champion: against version 1" in third.stdout
    rolled = workspace.gapgate("rollback")
    assert "version 1 again (was 3)" in rolled.stdout
    promoted = workspace.gapgate("promote", "3")
    assert "champion of gapgate is version 3 (before: version 1)" in promoted.stdout
    missing = workspace.gapgate("promote", "9")
    assert missing.returncode == 2
    assert "no version 9" in missing.stderr
    cleaned = workspace.gapgate("clean", "--keep", "0", "--yes")
    assert "freed" in cleaned.stdout
    left = list((workspace.folder / ".gapgate" / "runs").glob("*/artifacts/*/package/bento/model.bento"))
    assert len(left) == 1
    assert left[0].parents[4].name in third.stdout


def test_a_gate_that_does_not_pass_ends_with_3_and_nothing_is_packaged(workspace):
    done = workspace.gapgate("run", "digits", *QUICK, "--set", "gate.max_gap_points=-50")
    assert done.returncode == 3
    assert re.search(r"^✗ gate .*fail: 5 of 6 checks pass$", done.stdout, re.MULTILINE)
    assert "gate fail: registered without alias, not packaged" in done.stdout
    assert not list((workspace.folder / ".gapgate").glob("runs/*/artifacts/*/package"))
    listed = workspace.gapgate("models").stdout
    assert "fail" in listed
    assert "champion" not in listed
    refused = workspace.gapgate("promote", "1")
    assert refused.returncode == 3
    assert "verdict fail" in refused.stderr


def test_a_folder_of_class_folders_needs_no_other_step(workspace):
    for label, name in enumerate(("dark", "light")):
        (workspace.folder / "photos" / name).mkdir(parents=True)
        for number in range(60):
            size = (20 + number % 7, 24)
            Image.new("RGB", size, (label * 200, number % 256, number // 2)).save(
                workspace.folder / "photos" / name / f"{number}.jpg"
            )
    (workspace.folder / "photos" / "dark" / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    done = workspace.gapgate("run", "./photos", "--set", "preprocess.size_px=16", "--set", "train.epochs=8")
    assert done.returncode == 0, done.stdout + done.stderr
    info = artifacts.read_json(workspace.one("*/artifacts/*/preprocess/splits/splits.json"))
    assert "broken.jpg" in json.dumps(info["quarantined"])
    facts = artifacts.read_json(workspace.one("*/artifacts/*/ingest/dataset/dataset.json"))
    assert facts["dvc_hash"].endswith(".dir")


def test_the_real_fashion_mnist_files_go_through(workspace, fashion_subset):
    settings = (
        "--set",
        "train.architecture=tutorial",
        "--set",
        "train.epochs=1",
        "--set",
        "gate.min_test_accuracy=0.6",
    )
    done = workspace.gapgate(
        "run", fashion_subset, *settings, "--set", "gate.min_class_recall=0", "--set", "gate.max_ece=1"
    )
    assert done.returncode in (0, 3), done.stdout + done.stderr
    evaluation = artifacts.read_json(workspace.one("*/artifacts/*/evaluate/evaluation/evaluation.json"))
    assert evaluation["accuracy"]["test"]["num_images"] == 1000
    assert evaluation["accuracy"]["test"]["value"] > 0.6
