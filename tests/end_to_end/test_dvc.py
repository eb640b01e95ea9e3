"""The same steps as DVC stages, in a real git and DVC repository."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from components.platform.tracking.mlflow_charts import VIEW_QUERY, view
from gapgate.process import child_server
from tests.end_to_end.workspace import Workspace

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "serving" / "http" / "static" / "example.png"


@pytest.fixture(scope="module")
def repository(tmp_path_factory, empty_store):
    """A git repository with this project's data.dvc, dvc.yaml and quick settings, reproduced once."""
    root = tmp_path_factory.mktemp("repository")
    Workspace(root).with_store(empty_store)
    for name in ("data.dvc", "dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["train"] |= {"architecture": "tutorial", "epochs": 4, "batch_size": 32}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copy(ROOT / ".gitignore", root / ".gitignore")
    call("git", "init", "-q", cwd=root)
    call(*GIT, "add", "-A", cwd=root)
    call(*GIT, "commit", "-qm", "set up", cwd=root)
    call("gapgate", "data", "restore", cwd=root)
    call("dvc", "repro", cwd=root)
    call(*GIT, "add", "-A", cwd=root)
    call(*GIT, "commit", "-qm", "reproduce", cwd=root)
    return root


GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org")


def call(*command, cwd):
    folder = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "GIT_CONFIG_COUNT": "2"}
    environment |= {"GIT_CONFIG_KEY_0": "user.name", "GIT_CONFIG_VALUE_0": "t"}
    environment |= {"GIT_CONFIG_KEY_1": "user.email", "GIT_CONFIG_VALUE_1": "t@example.org"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_a_second_repro_does_nothing(repository):
    assert "Data and pipelines are up to date" in call("dvc", "repro", cwd=repository)


def test_metrics_are_shown_and_compared(repository):
    shown = json.loads(call("dvc", "metrics", "show", "--json", cwd=repository))
    assert shown[""]["data"]["artifacts/certificate/verdict.json"]["data"] == {"verdict": "pass"}
    recalls = shown[""]["data"]["artifacts/evaluation/classes.json"]["data"]["recall"]
    assert sorted(recalls) == [str(digit) for digit in range(10)]
    assert min(recalls.values()) > 0.5
    figures = shown[""]["data"]["artifacts/evaluation/metrics.json"]["data"]
    assert figures["test_accuracy"] > 0.9
    assert figures["gap_low"] <= figures["gap_points"] <= figures["gap_high"]


def test_an_experiment_with_another_setting_runs_only_what_depends_on_it(repository):
    out = call("dvc", "exp", "run", "-S", "train.epochs=2", cwd=repository)
    assert "Running stage 'train'" in out
    assert "Running stage 'preprocess'" not in out
    assert "Running stage 'augment'" not in out
    difference = json.loads(call("dvc", "metrics", "diff", "--json", cwd=repository))
    assert "gap_points" in difference["artifacts/evaluation/metrics.json"]


def test_an_experiment_that_the_gate_stops_is_kept_without_a_bento(repository):
    call("dvc", "exp", "run", "-S", "gate.max_gap_points=-50", cwd=repository)
    assert json.loads((repository / "artifacts" / "certificate" / "certificate.json").read_text())["verdict"] == "fail"
    assert not list((repository / "artifacts" / "bento").iterdir())


def test_plots_show_learning_curves_and_confusion_and_leave_no_file_that_git_sees(repository):
    before = call("git", "status", "--porcelain", cwd=repository)
    call("dvc", "plots", "show", cwd=repository)
    page = (repository / "dvc_plots" / "index.html").read_text()
    assert "Loss by epoch" in page
    assert "val_loss" in page
    assert "Confusion of the test images" in page
    # Of the experiment before, which is the champion's or not: the champion is found either way.
    printed = call("gapgate", "look", str(EXAMPLE), cwd=repository)
    assert "gapgate version " in printed
    assert (repository / "look" / "look.html").exists()
    assert call("git", "status", "--porcelain", cwd=repository) == before


@pytest.mark.skipif(not shutil.which("npm"), reason="without npm")
def test_the_plots_are_drawn_without_the_internet(repository, pages):
    venv = Path(sys.executable).parent
    made = subprocess.run(
        ["make", "-s", "-f", ROOT / "Makefile", f"BIN={venv}", "plots"], cwd=repository, capture_output=True, text=True
    )
    if "npm error" in made.stderr:
        pytest.skip(f"npm: {made.stderr[:200]}")
    assert made.returncode == 0, made.stderr
    before = call("git", "status", "--porcelain", cwd=repository)
    call("dvc", "plots", "show", cwd=repository)
    assert call("git", "status", "--porcelain", cwd=repository) == before
    page, _ = pages
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((repository / "dvc_plots" / "index.html").as_uri())
    page.locator(":is(canvas, svg).marks").nth(2).wait_for()  # loss, accuracy, confusion
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def test_a_run_of_dvc_knows_its_data_as_one_of_gapgate_run_does(repository):
    client = MlflowClient(f"sqlite:///{repository}/.gapgate/mlflow.db")
    (first, *_) = client.search_runs(["1"], order_by=["attributes.start_time ASC"])
    sections = {name.partition(".")[0] for name in first.data.params}
    assert sections == {"data", "preprocess", "augment", "train", "resolved", "evaluate", "gate", "registry", "package"}
    assert first.data.params["data.train_images"] == "1195"
    assert first.data.tags["data.dvc_hash"] == "33bf1a1fb9d9e5fd47d23074fa47c3ad.dir"
    assert {each.dataset.digest for each in first.inputs.dataset_inputs} == {"33bf1a1fb9d9e5fd47d23074fa47c3ad.dir"}
    assert "data/contact_sheet.png" in [file.path for file in client.list_artifacts(first.info.run_id, "data")]
    assert not [name for name in first.data.metrics if name.startswith("data/")]
    # The gate's copy knows neither.
    report = Path(client.download_artifacts(first.info.run_id, "report/report.html")).read_text()
    assert "<dd>gapgate version 1</dd>" in report
    assert first.data.tags["receipt"] in report
    for table in ("classes", "worst_errors", "suspects"):
        assert f"tables/{table}.json" in first.data.tags["mlflow.loggedArtifacts"]


@pytest.fixture(scope="module")
def pages(repository):
    """A browser's page on `gapgate ui`, with the address of the list of runs."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not (chromium := shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("no chromium on the PATH")
    port = child_server.free_port()
    log = repository / ".gapgate" / "ui.log"
    command = [sys.executable, "-c", "from cli import main; main()", "ui", "--port", str(port)]
    process = child_server.start(command, log, cwd=repository, env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        child_server.wait(process, log, "gapgate ui", lambda: None if "MLflow at" in log.read_text() else "silent", 120)
        assert log.read_text().startswith("MLflow at ")
        (address,) = re.findall(r"MLflow at (\S+)", log.read_text())
        with playwright.sync_playwright() as started:
            browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1600, "height": 1200})
            page.set_default_timeout(60_000)
            yield page, address
            browser.close()
        # Told to end, it takes MLflow with it.
        process.terminate()
        assert process.wait(30) == 0
        assert child_server.unanswered(f"http://127.0.0.1:{port}/health") is not None
    finally:
        child_server.stop(process, whole_group=True)


def test_mlflows_pages_show_a_run_its_data_its_pictures_and_its_model(repository, pages):
    """On its own pages, by what a person reads there."""
    page, address = pages
    server = address.partition("/#")[0]
    assert address == f"{server}/#/experiments/1/runs?workflowType=machine_learning"
    client = MlflowClient(f"sqlite:///{repository}/.gapgate/mlflow.db")
    (run, *_) = client.search_runs(["1"], order_by=["attributes.start_time ASC"])
    page.goto(address)
    page.get_by_text(run.info.run_name).first.wait_for()
    page.get_by_text("data, train").first.wait_for()  # the column of data sets
    stopped = page.get_by_text("(gate: fail)").first
    stopped.wait_for()
    page.goto(f"{server}/#/runs/{run.info.run_id}")  # as a run's summary has it
    page.get_by_text("Gate: pass").first.wait_for()
    page.get_by_text("gap, train − test").first.wait_for()
    page.get_by_text("data, test").first.wait_for()
    # Charts that are out of sight have no content, and those of images are the last.
    page.set_viewport_size({"width": 1600, "height": 6500})
    page.goto(f"{server}/#/experiments/1/runs/{run.info.run_id}/model-metrics")
    page.get_by_text("worst errors").first.wait_for()
    page.get_by_text("augmentation").first.wait_for()
    page.goto(f"{server}/#/experiments/1/runs/{run.info.run_id}/artifacts/tables/classes.json")
    page.get_by_text("View as table").first.wait_for()
    page.get_by_text("gap, low").first.wait_for()
    page.goto(f"{server}/#/models/gapgate/versions/1")
    page.get_by_text("Gate: pass").first.wait_for()


def test_the_charts_of_the_runs_have_training_and_validation_in_one_and_no_chart_of_a_single_value(repository, pages):
    page, address = pages
    assert len(view()) <= 5000  # of a tag, which PostgreSQL enforces
    page.set_viewport_size({"width": 2400, "height": 3000})
    page.goto(f"{address}{VIEW_QUERY}")
    for curves in ("train/loss vs val/loss", "train/accuracy vs val/accuracy"):
        page.get_by_text(curves).first.wait_for()
    # A row of the table; its title has no room beside the switches.
    page.get_by_text("gap/points").first.wait_for(state="attached")
    assert page.get_by_title("Figures and settings that differ").count() == 1
    for line in ("(train/loss)", "(val/loss)"):  # in the legend, which comes after the title
        page.get_by_text(line).first.wait_for(state="attached")
    text = page.inner_text("body")
    assert text.count("(val/loss)") == text.count("(train/loss)") > 0
    known = {
        name
        for each in MlflowClient(f"sqlite:///{repository}/.gapgate/mlflow.db").search_runs(["1"])
        for name in each.data.metrics
    }
    charts = json.loads(view())["compareRunCharts"]
    # MLflow makes a chart of its own for each metric that the view leaves out.
    assert known <= {chart.get("metricKey") for chart in charts}
    assert {chart["metricKey"] for chart in charts if chart["type"] == "BAR" and not chart["deleted"]} == set()


def test_mlflows_comparison_of_two_runs_shows_their_curves_and_what_differs(repository, pages):
    page, address = pages
    client = MlflowClient(f"sqlite:///{repository}/.gapgate/mlflow.db")
    runs = [run.info.run_id for run in client.search_runs(["1"], order_by=["attributes.start_time ASC"])][:2]
    asked = f"runs={json.dumps(runs)}&experiments={json.dumps(['1'])}"
    page.goto(f"{address.partition('/#')[0]}/#/compare-runs?{asked}".replace(" ", ""))
    page.get_by_text("Comparing 2 Runs").first.wait_for()
    page.get_by_text("train.epochs").first.wait_for()
    page.get_by_text("gap/points").first.wait_for()
