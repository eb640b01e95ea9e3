"""train, on the splits and the policy of the golden artifacts."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from components import train
from components.execute import make
from components.platform.run_context import RunContext
from gapgate import artifacts
from gapgate.errors import AcceleratorError
from gapgate.settings.sections import TrainSettings
from gapgate.tracking import NullTracker
from gapgate.training import checkpoint
from tests.gapgate.digit_splits import Recorder
from tests.golden.stored import SCHEMA_1


def test_a_damaged_checkpoint_costs_a_line_and_not_the_training(tmp_path: Path, monkeypatch) -> None:
    inputs = {kind: artifacts.load(SCHEMA_1 / kind, kind) for kind in ("splits", "policy")}
    settings = TrainSettings(architecture="softmax", epochs=1, batch_size=16, accelerator="cpu", num_threads=1)
    monkeypatch.setattr("components.train.checkpoint_dir", lambda key: tmp_path / "checkpoints")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / checkpoint.FILE).write_bytes(b"half a file")
    made, facts = make("train", settings, inputs, tmp_path / "model", NullTracker())
    assert facts.notes == ["checkpoints of an earlier try that were damaged and not used: 1"]
    assert len(made.read_json("history.json")) == 1
    assert not (tmp_path / "checkpoints").exists()
    assert make("train", settings, inputs, tmp_path / "again", NullTracker())[1].notes == []


@pytest.mark.parametrize(
    ("left", "is_used"),
    [
        ("nothing", True),
        ("a failure", True),
        ("a good end", False),
        ("a process at work", False),
        ("other settings", False),
        ("a damaged model", False),
        ("other code", False),
    ],
)
def test_the_finished_model_of_an_interrupted_run_is_used_and_the_message_names_the_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str, is_used: bool
) -> None:
    inputs = {kind: artifacts.load(SCHEMA_1 / kind, kind) for kind in ("splits", "policy")}
    settings = TrainSettings(architecture="softmax", epochs=1, batch_size=16, accelerator="cpu", num_threads=1)
    interrupted = RunContext("r1")
    place = interrupted.folder / "artifacts" / "g" / "train" / "model"
    monkeypatch.setenv(artifacts.RUN_VARIABLE, "r1")
    first, _ = make("train", settings, inputs, place, NullTracker())
    if left in ("a failure", "a good end"):
        failure = {"exit_code": 1} if left == "a failure" else None
        artifacts.write_json(interrupted.folder / "result.json", {"failure": failure})
    if left == "other settings":
        settings = settings.model_copy(update={"seed": 7})
    if left == "a damaged model":
        (place / "model.onnx").write_bytes(b"half")
    if left == "other code":
        monkeypatch.setattr(artifacts, "code_revision", lambda: "another")
    monkeypatch.setenv(artifacts.RUN_VARIABLE, "r2")
    tracker = Recorder()
    with interrupted.alive() if left == "a process at work" else nullcontext():
        made, facts = make("train", settings, inputs, tmp_path / "model", tracker)
    assert (facts.notes == ["the model of run r1 is used, which ended after its training"]) == is_used
    assert (made.digest == first.digest) == (left != "other settings")
    assert made.manifest.run == "r2"
    assert "train/loss" in tracker.epochs[1]
    assert ("train/images_per_s" in tracker.epochs[1]) != is_used


@pytest.mark.parametrize(("patience", "said"), [(0, "val 70.0 %"), (2, "val 80.0 %")])
def test_the_summary_has_the_validation_accuracy_of_the_epoch_whose_weights_were_kept(
    tmp_path: Path, patience: int, said: str
) -> None:
    losses = [(0.5, 0.6), (0.2, 0.8), (0.3, 0.9), (0.4, 0.7)]
    history = [{"train_accuracy": 1.0, "val_loss": loss, "val_accuracy": accuracy} for loss, accuracy in losses]
    artifacts.write_json(tmp_path / "history.json", history)
    artifacts.write_json(tmp_path / "architecture.json", {"num_parameters": 1650})
    artifacts.write_json(tmp_path / "recipe.json", {"name": "small", "why": ""})
    settings = TrainSettings(patience=patience, seed=7)
    facts = train._facts(tmp_path, settings, [])
    assert facts.summary == f"small, 4 epochs, 1,650 parameters, {said}"
    assert facts.tags == {"seed": "7"}


class Reached(Exception):  # noqa: N818 (it is no error)
    """The training would begin now."""


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs the step up to its training; returns the key of its checkpoints and what the training was given."""
    inputs = {kind: artifacts.load(SCHEMA_1 / kind, kind) for kind in ("splits", "policy")}
    settings = TrainSettings(architecture="softmax", epochs=1, accelerator="cpu")
    found: list[object] = []

    def checkpoint_dir(key: str) -> Path:
        found.append(key)
        return tmp_path / "checkpoints"

    def fit(*args: object) -> None:
        found.append(args)
        raise Reached

    monkeypatch.setattr(train, "checkpoint_dir", checkpoint_dir)
    monkeypatch.setattr(train, "features_dir", lambda: tmp_path / "features")
    monkeypatch.setattr(train, "model_of_interrupted_run", lambda *_: None)
    monkeypatch.setattr(train, "train", fit)

    def run(changed: str = "", **more: object):
        given = dict(inputs)
        if changed:
            other = inputs[changed].manifest.model_copy(update={"digest": "sha256:" + "0" * 64})
            given[changed] = artifacts.Artifact(inputs[changed].path, other)
        found.clear()
        with pytest.raises(Reached):
            train.run(settings.model_copy(update=more), given, tmp_path / "model", NullTracker())
        key, args = found
        return key, args

    return run


def test_checkpoints_belong_to_the_settings_the_splits_and_the_policy(begun) -> None:
    keys = [begun()[0], begun(seed=1)[0], begun("splits")[0], begun("policy")[0]]
    assert len(set(keys)) == 4
    assert begun()[0] == keys[0]


def test_the_training_gets_the_operations_of_the_policy_and_the_features_of_all_trainings(begun, tmp_path) -> None:
    _, (settings, splits, operations, folder, checkpoints, _, features) = begun()
    kinds = [operation["type"] for operation in artifacts.read_json(SCHEMA_1 / "policy/policy.json")["operations"]]
    assert [operation.type for operation in operations] == kinds
    assert kinds
    assert (settings.architecture, splits.path) == ("softmax", SCHEMA_1 / "splits")
    assert (folder, checkpoints) == (tmp_path / "model", tmp_path / "checkpoints")
    assert features == tmp_path / "features"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_step_that_was_given_a_gpu_never_trains_on_the_cpu(begun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(train.NUM_GPUS_VARIABLE, "1")
    with pytest.raises(AcceleratorError, match=r"train\.accelerator=cuda"):
        begun()
    monkeypatch.setenv(train.NUM_GPUS_VARIABLE, "0")
    begun()


def test_a_second_process_with_the_same_training_has_checkpoints_of_its_own(tmp_path: Path) -> None:
    with train._exclusive(tmp_path / "key") as first, train._exclusive(tmp_path / "key") as second:
        assert first == tmp_path / "key"
        assert second != first
        assert second.is_dir()
    assert not second.exists()
    with train._exclusive(tmp_path / "key") as again:
        assert again == first
