"""`tracking.tensorboard: true`, read back as TensorBoard reads it."""

import io
import json
import os
import subprocess
import sys
import time

import mlflow
import pytest
from PIL import Image, ImageChops
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from components.platform.tracking.tensorboard import TensorBoardSpool
from gapgate import artifacts
from tests.end_to_end.workspace import QUICK, ROOT, Workspace

WITHOUT = """
import json, sys
from components.execute import execute
execute("ingest", json.dumps({"source": "digits"}), {}, "dataset")
execute("preprocess", "{}", {"dataset": "dataset"}, "splits")
execute("augment", "{}", {"splits": "splits"}, "policy")
assert not [name for name in sys.modules if name.startswith("tensorboard")]
"""
WITH = """
import sys
from pathlib import Path
from components.platform.tracking.tensorboard import TensorBoardSpool
spool = TensorBoardSpool(Path("spool"), "preprocess")
spool.metrics({"data/images": 3.0})
spool.finished("done")
assert "tensorboardX" in sys.modules
assert not {"torch", "boto3", "tensorboard"} & sys.modules.keys()
import torch
assert torch.ones(2).sum() == 2
"""


def opened(folder):
    """What TensorBoard reads in a folder; nothing is left out."""
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def steps_of(folder, tag):
    """The steps of a scalar that are in the files by now."""
    board = opened(folder)
    return [scalar.step for scalar in board.Scalars(tag)] if tag in board.Tags()["scalars"] else []


def wait_until(holds, timeout_s):
    until = time.monotonic() + timeout_s
    while not holds() and time.monotonic() < until:
        time.sleep(0.05)
    return holds()


@pytest.fixture(scope="module")
def run(tmp_path_factory, empty_store):
    """The run's folder, after two epochs on digits."""
    workspace = Workspace(tmp_path_factory.mktemp("tensorboard")).with_store(empty_store)
    settings = ("--set", "train.epochs=2", "--set", "tracking.tensorboard=true")
    done = workspace.gapgate("run", "digits", *QUICK, *settings)
    assert done.returncode in (0, 3), done.stdout + done.stderr
    return workspace.one("*")


@pytest.fixture(scope="module")
def board(run):
    return opened(run / "tensorboard")


def test_the_curves_are_those_of_the_history(run, board):
    (path,) = run.glob("artifacts/*/train/model/history.json")
    history = artifacts.read_json(path)
    assert [line["epoch"] for line in history] == [1, 2]
    names = {"train_loss": "train/loss", "train_accuracy": "train/accuracy", "learning_rate": "train/learning_rate"}
    for name, tag in {**names, "val_loss": "val/loss", "val_accuracy": "val/accuracy"}.items():
        found = {scalar.step: scalar.value for scalar in board.Scalars(tag)}
        assert found == pytest.approx({line["epoch"]: line[name] for line in history}, rel=1e-6)
    assert all(scalar.value > 0 for scalar in board.Scalars("train/images_per_s"))


def test_the_final_figures_are_those_of_the_evaluation(run, board):
    (path,) = run.glob("artifacts/*/evaluate/evaluation/metrics.json")
    metrics = artifacts.read_json(path)
    for name in ("gap_points", "test_accuracy"):
        (scalar,) = board.Scalars(name.replace("_", "/"))
        assert scalar.value == pytest.approx(metrics[name], rel=1e-6)


def test_the_filters_are_shown_as_the_evaluation_draws_them(run, board):
    assert {"figures/filters", "data/contact_sheet", "augmentation/preview"} <= set(board.Tags()["images"])
    (shown,) = board.Images("figures/filters")
    (drawn,) = run.glob("artifacts/*/evaluate/evaluation/figures/filters.png")
    seen = Image.open(io.BytesIO(shown.encoded_image_string))
    assert ImageChops.difference(seen, Image.open(drawn).convert("RGB")).getbbox() is None
    assert seen.size == (shown.width, shown.height)


def test_the_graph_leads_from_the_images_to_the_logits_through_every_layer(board):
    nodes = {node.name: node for node in board.Graph().node}
    missing = [name for node in nodes.values() for name in node.input if name not in nodes]
    assert missing == []
    conv = nodes["model/0_conv/Conv"]
    assert {"model/0_conv/weight", "model/0_conv/bias"} <= set(conv.input)
    assert b"output_shape = [-1, 32, 8, 8]" in conv.attr["parameters"].s
    assert [dim.size for dim in nodes["model/0_conv/weight"].attr["shape"].shape.dim] == [32, 1, 3, 3]
    assert [dim.size for dim in nodes["images"].attr["shape"].shape.dim] == [-1, 8, 8, 1]
    chain, name = [], "model/9_dense/Gemm"
    while nodes[name].input:
        chain.append(nodes[name].op)
        name = nodes[name].input[0]
    assert name == "images"
    assert [op for op in reversed(chain) if op in ("Conv", "MaxPool", "Gemm")] == ["Conv", "MaxPool"] * 2 + ["Gemm"] * 2


def test_the_event_files_are_kept_with_the_mlflow_run(run):
    state = artifacts.read_json(run / "spool" / "mlflow.json")
    client = mlflow.MlflowClient(f"sqlite:///{run.parents[1]}/mlflow.db")
    kept = {item.path for item in client.list_artifacts(state["run_id"], "tensorboard")}
    written = {f"tensorboard/{path.name}" for path in (run / "tensorboard").iterdir()}
    assert kept == written
    assert {name.rpartition(".")[2] for name in kept} == {"preprocess", "augment", "train", "evaluate"}


def test_curves_can_be_read_while_a_step_works(tmp_path):
    spool = TensorBoardSpool(tmp_path / "spool", "train")
    for epoch in (1, 2):
        spool.metrics({"val/loss": 1 / epoch}, step=epoch)
        assert wait_until(lambda: epoch in steps_of(tmp_path / "tensorboard", "val/loss"), 30)  # noqa: B023
    spool.failed("out of memory", 1)
    events = [json.loads(line) for line in (tmp_path / "spool" / "train.jsonl").read_text().splitlines()]
    assert [event["kind"] for event in events] == ["metrics", "metrics", "file", "failed"]


def test_by_default_nothing_is_written_and_nothing_of_tensorboard_is_imported(tmp_path):
    environment = {"GAPGATE_RUN": "plain", "GAPGATE_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    environment |= {"GAPGATE_SPOOL_IS_READ": "1"}
    subprocess.run([sys.executable, "-c", WITHOUT], cwd=tmp_path, env=os.environ | environment, check=True, timeout=300)
    assert [path.name for path in (tmp_path / "home/runs/plain").iterdir()] == ["spool"]


def test_a_step_without_torch_does_not_import_it_for_tensorboard(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", WITH], cwd=tmp_path, env=environment, check=True, timeout=120)
    assert steps_of(tmp_path / "tensorboard", "data/images") == [0]
