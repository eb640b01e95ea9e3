import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn
from torch.nn import functional

from gapgate.data.splits import Splits
from gapgate.errors import AcceleratorError, SettingsError
from gapgate.settings.sections import TrainSettings
from gapgate.text import percent
from gapgate.training import batches
from gapgate.training import device as devices
from gapgate.training.augmentation import policy
from gapgate.training.fit import train
from gapgate.training.learner import Learner, Progress
from gapgate.training.loop import train_epoch, train_step
from tests.gapgate.digit_splits import Recorder, write_digits

ROOT = Path(__file__).parents[3]
MODEL_FILES = {
    "weights.safetensors",
    "architecture.json",
    "transform.json",
    "model.onnx",
    "history.json",
    "parity.safetensors",
    "environment.json",
    "recipe.json",
}
LINEAR = TrainSettings(
    architecture="softmax", epochs=3, batch_size=64, learning_rate=0.02, accelerator="cpu", num_threads=2
)
CONV = LINEAR.model_copy(update={"architecture": "tutorial", "learning_rate": 0.003})
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits") / "splits", num_train=300, num_val=120)


def fit(settings: TrainSettings, splits: Splits, folder: Path, operations=(), tracker=None) -> dict[str, bytes]:
    """Train into `folder`; name → bytes of the model's files."""
    out_dir = folder / "model"
    out_dir.mkdir(parents=True)
    train(settings, splits, operations, out_dir, folder / "checkpoints", tracker or Recorder())
    return {path.name: path.read_bytes() for path in out_dir.iterdir()}


def history_of(files: dict[str, bytes]) -> list[dict[str, float]]:
    return json.loads(files["history.json"])


@pytest.fixture(scope="module")
def killed(splits, tmp_path_factory):
    root = tmp_path_factory.mktemp("killed")
    command = [sys.executable, str(ROOT / "tests/gapgate/killed_training.py"), str(splits.path), str(root)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=300)
    return root


def test_a_training_killed_at_several_epochs_ends_with_the_bits_of_one_never_killed(killed):
    assert json.loads((killed / "ends.json").read_text()) == [0, *[-signal.SIGKILL] * 3, 0]
    whole, resumed = ({path.name: path.read_bytes() for path in (killed / n).iterdir()} for n in ("whole", "killed"))
    assert set(whole) == MODEL_FILES
    assert [name for name in whole if whole[name] != resumed[name]] == []


def test_a_cpu_training_never_imports_torch_dynamo(killed):
    assert json.loads((killed / "whole.facts.json").read_text())["dynamo"] is False


def test_training_opens_train_and_val_and_never_the_test_split(killed):
    opened = json.loads((killed / "whole.facts.json").read_text())["opened"]
    assert {"train.npy", "val.npy"} <= set(opened)
    assert "test.npy" not in opened


def test_a_small_cnn_reaches_97_percent_on_new_digits_and_its_loss_falls(tmp_path):
    digits = write_digits(tmp_path / "splits", num_train=1257, num_val=300)
    settings = CONV.model_copy(update={"epochs": 15})
    history = history_of(fit(settings, digits, tmp_path, [policy.Translate(type="translate", max_fraction=0.1)]))
    assert history[-1]["val_accuracy"] >= 0.97
    assert history[-1]["train_loss"] < 0.2 * history[0]["train_loss"]
    assert history[-1]["val_loss"] < 0.5 * history[0]["val_loss"]


def test_equal_seeds_give_equal_files_and_another_seed_other_weights(splits, tmp_path):
    operations = [policy.Rotate(type="rotate")]
    first, second = (fit(LINEAR, splits, tmp_path / name, operations) for name in ("first", "second"))
    other = fit(LINEAR.model_copy(update={"seed": 1}), splits, tmp_path / "other", operations)
    assert first == second
    assert first["weights.safetensors"] != other["weights.safetensors"]
    assert first["parity.safetensors"] != other["parity.safetensors"]


def test_training_leaves_the_callers_random_state_and_threads_alone(splits, tmp_path):
    torch.manual_seed(3)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    fit(LINEAR, splits, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_memory_mapped_batches_give_the_same_model_as_resident_ones(splits, tmp_path, monkeypatch):
    assert isinstance(batches.open_batches(splits, "train", CPU), batches.ResidentBatches)
    resident = fit(LINEAR, splits, tmp_path / "resident")
    monkeypatch.setattr(devices, "RESIDENT_FRACTION", 0.0)
    assert isinstance(batches.open_batches(splits, "train", CPU), batches.MappedBatches)
    assert fit(LINEAR, splits, tmp_path / "mapped") == resident


def test_an_epochs_batches_hold_every_image_once_in_sizes_that_differ_by_one():
    drawn = batches.shuffled(1257, 128, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(drawn).tolist()) == list(range(1257))
    assert {len(batch) for batch in drawn} == {125, 126}
    assert len(drawn) == batches.num_batches(1257, 128) == 10


class Watched(Learner):
    """A learner that keeps what each shard's network was given, by the generator that the shard draws from."""

    def augmented(self, images, labels, generator):
        given = super().augmented(images, labels, generator)
        self.seen.append((self.shards.generators.index(generator), given[0], labels))
        return given


def seen_in_epoch(settings: TrainSettings, splits: Splits, epoch: int, operations=()) -> tuple[torch.Tensor, ...]:
    """Images and labels of an epoch as the network saw them, in the order of the batches and shards."""
    with Watched(settings, splits, operations, CPU) as learner:
        learner.seen = []
        train_epoch(learner, batches.open_batches(splits, "train", CPU), epoch)
        pairs = zip(learner.seen[::2], learner.seen[1::2], strict=True)  # the two shards of a step end in any order
        ordered = [one for pair in pairs for one in sorted(pair, key=lambda one: one[0])]
    return torch.cat([images for _, images, _ in ordered]), torch.cat([labels for *_, labels in ordered])


def test_every_epoch_takes_the_images_in_another_order_and_every_seed_too(splits):
    first, labels = seen_in_epoch(LINEAR, splits, 1)
    again, second = (seen_in_epoch(LINEAR, splits, epoch)[0] for epoch in (1, 2))
    other = seen_in_epoch(LINEAR.model_copy(update={"seed": 1}), splits, 1)[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)
    for images in (first, second, other):  # the same images nevertheless
        assert torch.equal(images.flatten(1).sum(1).sort().values, first.flatten(1).sum(1).sort().values)
    in_order = torch.from_numpy(splits.labels[splits.rows("train")].astype(np.int64))
    assert not torch.equal(labels, in_order)


TWICE = torch.arange(64).repeat(2)  # (128,) places: each shard of a step gets the same 64 images


def drawn(splits: Splits, epoch: int, seed: int = 0) -> list[torch.Tensor]:
    """What each of two shards makes of the same images: augmented, and after dropout."""
    layers = json.loads('[{"type": "dropout"}, {"type": "flatten"}, {"type": "dense"}]')
    settings = TrainSettings.model_validate({**LINEAR.model_dump(), "architecture": tuple(layers), "seed": seed})
    images, labels = next(batches.open_batches(splits, "train", CPU).read([TWICE]))
    with Watched(settings, splits, [policy.Translate(type="translate", max_fraction=0.3)], CPU) as learner:
        learner.seen, found = [], []
        learner.start_epoch(epoch, 300)
        learner.model.get_submodule("0_dropout").register_forward_hook(lambda *call: found.append((0, call[2])))
        learner.shards.models[1].get_submodule("0_dropout").register_forward_hook(
            lambda *call: found.append((1, call[2]))
        )
        train_step(learner, images, labels, learning_rate=0.001)
        assert len(learner.seen) == len(found) == len(learner.shards) == 2
        assert sorted(shard for shard, *_ in learner.seen) == [0, 1]
        for model, generator in zip(learner.shards.models, learner.shards.generators, strict=True):
            # One generator for two threads would give each the numbers that their race leaves it.
            assert model.get_submodule("0_dropout").generator is generator
        augmented = [images for _, images, _ in sorted(learner.seen, key=lambda one: one[0])]
        return [*augmented, *(values != 0 for _, values in sorted(found, key=lambda one: one[0]))]


def test_two_shards_of_a_step_draw_their_own_augmentation_and_dropout(splits):
    first, second, first_kept, second_kept = drawn(splits, 1)
    assert not torch.equal(first, second)
    assert not torch.equal(first_kept, second_kept)
    same = (first == second) & (first != first.min())
    assert (first_kept[same] != second_kept[same]).float().mean() > 0.3  # half, if both draw alone


def test_every_epoch_and_every_seed_draws_its_own_augmentation_and_dropout(splits):
    first, again = drawn(splits, 1), drawn(splits, 1)
    others = [*drawn(splits, 2), *drawn(splits, 1, seed=1)]
    for values, repeated in zip(first, again, strict=True):
        assert torch.equal(values, repeated)
    for values, other in zip([*first, *first], others, strict=True):
        assert not torch.equal(values, other)


def test_every_epoch_seeds_torchs_own_generator_anew(splits):
    with Learner(LINEAR, splits, (), CPU) as learner:
        draws = []
        for epoch in (1, 2, 1):
            learner.start_epoch(epoch, 300)
            draws.append(torch.rand(8))
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


def test_a_step_of_two_threads_has_the_gradient_of_the_whole_batch(splits):
    images, labels = next(batches.open_batches(splits, "train", CPU).read([torch.arange(64)]))
    settings = CONV.model_copy(update={"num_threads": 2, "label_smoothing": 0.1, "amp": "off"})
    with Learner(settings, splits, (), CPU) as learner:
        assert len(learner.shards) == 2
        whole = functional.cross_entropy(learner.model(learner.normalised(images)), labels, label_smoothing=0.1)
        expected = torch.autograd.grad(whole, list(learner.model.parameters()))
        train_step(learner, images, labels, learning_rate=0.001)
        for parameter, gradient in zip(learner.model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_the_number_of_threads_changes_no_bit_and_that_of_shards_does(splits, tmp_path):
    settings = CONV.model_copy(update={"epochs": 1, "batch_size": 64})
    weights = [
        fit(settings.model_copy(update=changed), splits, tmp_path / str(number))["weights.safetensors"]
        for number, changed in enumerate(
            [{"num_threads": 1}, {"num_threads": 2}, {"num_threads": 5}, {"num_shards": 4}]
        )
    ]
    assert weights[0] == weights[1] == weights[2] != weights[3]


def test_running_statistics_are_the_mean_over_the_shards(splits):
    layers = json.loads('[{"type": "batch_norm"}, {"type": "flatten"}, {"type": "dense"}]')
    settings = TrainSettings.model_validate({**LINEAR.model_dump(), "architecture": tuple(layers)})
    images, labels = next(batches.open_batches(splits, "train", CPU).read([torch.arange(64)]))
    with Learner(settings, splits, (), CPU) as learner:
        learner.start_epoch(1, 300)
        train_step(learner, images, labels, learning_rate=0.001)
        halves = learner.normalised(images).chunk(2)
        norms = [model.get_submodule("0_batch_norm") for model in learner.shards.models]
        expected_mean = 0.1 * (halves[0].mean() + halves[1].mean()) / 2
        expected_var = 0.9 + 0.1 * (halves[0].var() + halves[1].var()) / 2
        for norm in norms:
            torch.testing.assert_close(norm.running_mean, expected_mean.view(1))
            torch.testing.assert_close(norm.running_var, expected_var.view(1))


def test_balanced_class_weights_are_n_over_classes_times_count_and_the_loss_is_torchs(splits):
    settings = LINEAR.model_copy(update={"class_weights": "balanced", "label_smoothing": 0.2})
    counts = np.bincount(splits.labels[splits.rows("train")], minlength=10)
    weights = torch.tensor(300 / (10 * counts), dtype=torch.float32)
    logits = torch.randn(7, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 3, 9, 9])
    one_hot = functional.one_hot(labels, 10).float()
    with Learner(settings, splits, (), CPU) as learner:
        expected = functional.cross_entropy(logits, one_hot, weight=weights, label_smoothing=0.2)
        torch.testing.assert_close(learner.loss(logits, labels) / 7, expected)
        torch.testing.assert_close(learner.loss(logits, one_hot) / 7, expected)
        unweighted = functional.cross_entropy(logits, labels, label_smoothing=0.2)
        assert not torch.isclose(learner.loss(logits, labels) / 7, unweighted)


def test_early_stopping_keeps_the_weights_of_the_best_epoch(splits, tmp_path):
    settings = CONV.model_copy(
        update={"epochs": 60, "patience": 3, "learning_rate": 0.01, "schedule": "constant", "batch_size": 32}
    )
    files = fit(settings, splits, tmp_path)
    losses = [line["val_loss"] for line in history_of(files)]
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 3 < 60
    logits = torch.from_numpy(load_file(tmp_path / "model/parity.safetensors")["logits"])
    labels = torch.from_numpy(splits.labels[splits.rows("val")].astype(np.int64))
    assert functional.cross_entropy(logits, labels).item() == pytest.approx(losses[best], rel=1e-4)
    assert losses[best] < 0.999 * losses[-1]


def test_patience_counts_epochs_since_the_lowest_validation_loss():
    progress = Progress()
    assert [progress.add({"val_loss": loss}) for loss in (1.0, 0.5, 0.7, 0.5)] == [True, True, False, False]
    assert progress.best_epoch == 2
    assert (progress.is_out_of_patience(2), progress.is_out_of_patience(3)) == (True, False)
    assert not progress.is_out_of_patience(0)


def test_onnx_runtime_agrees_with_the_logits_kept_for_parity(splits, tmp_path):
    settings = CONV.model_copy(update={"ema_decay": 0.9, "epochs": 2})
    files = fit(settings, splits, tmp_path)
    session = onnxruntime.InferenceSession(files["model.onnx"], providers=["CPUExecutionProvider"])
    parity = load_file(tmp_path / "model/parity.safetensors")
    np.testing.assert_array_equal(parity["images"], splits.images[splits.rows("val")])
    (logits,) = session.run(["logits"], {"images": parity["images"]})
    assert np.abs(logits - parity["logits"]).max() < 1e-4
    accuracy = (logits.argmax(1) == splits.labels[splits.rows("val")]).mean()
    assert accuracy == pytest.approx(history_of(files)[-1]["val_accuracy"])


def test_a_flip_averaged_model_gives_the_mean_of_its_logits_for_both_images(splits, tmp_path):
    plain, averaged = CONV.model_copy(update={"epochs": 1}), CONV.model_copy(update={"epochs": 1, "flip_average": True})
    flip = [policy.Flip(type="flip")]
    files = {name: fit(one, splits, tmp_path / name, flip) for name, one in (("p", plain), ("a", averaged))}
    assert files["p"]["weights.safetensors"] == files["a"]["weights.safetensors"]
    sessions = {name: onnxruntime.InferenceSession(files[name]["model.onnx"]) for name in files}
    images = splits.images[splits.rows("val")]
    mirrored = np.ascontiguousarray(images[:, :, ::-1])
    ask = {name: lambda some, name=name: sessions[name].run(["logits"], {"images": some})[0] for name in sessions}
    np.testing.assert_allclose(ask["a"](images), (ask["p"](images) + ask["p"](mirrored)) / 2, atol=1e-5)
    parity = load_file(tmp_path / "a/model/parity.safetensors")
    np.testing.assert_allclose(parity["logits"], ask["a"](parity["images"]), atol=1e-4)


def test_flip_averaging_asks_for_flips_in_training(splits, tmp_path):
    flips = [policy.Flip(type="flip", axis="vertical"), policy.Flip(type="flip", probability=0.0)]
    with pytest.raises(SettingsError, match=r"^train\.flip_average=true .* add \{type: flip\}"):
        fit(LINEAR.model_copy(update={"flip_average": True}), splits, tmp_path, flips)


def test_the_architecture_is_written_with_every_layer_resolved(splits, tmp_path):
    files = fit(LINEAR, splits, tmp_path)
    written = json.loads(files["architecture.json"])
    assert written["layers"] == [{"type": "flatten"}, {"type": "dense", "units": 10}]
    assert (written["input_shape"], written["num_classes"]) == ([8, 8, 1], 10)
    assert (written["mean"], written["std"]) == (splits.info["mean"], splits.info["std"])
    weights = load_file(tmp_path / "model/weights.safetensors")
    assert written["num_parameters"] == sum(weight.size for weight in weights.values()) == 650
    normalisation = {"mean": splits.info["mean"], "std": splits.info["std"]}
    assert json.loads(files["transform.json"]) == {"size_px": 8, **normalisation}


def test_the_tracker_hears_of_every_epoch_and_of_the_last_batch(splits, tmp_path):
    tracker = Recorder()
    history = history_of(fit(LINEAR, splits, tmp_path, tracker=tracker))
    assert list(tracker.epochs) == [line["epoch"] for line in history] == [1, 2, 3]
    assert tracker.epochs[3]["val/accuracy"] == history[2]["val_accuracy"]
    assert tracker.epochs[3]["train/learning_rate"] == history[2]["learning_rate"]
    assert tracker.epochs[3]["train/images_per_s"] > 0
    assert list(tracker.pictures) == [("predictions on validation images", epoch) for epoch in (1, 2, 3)]
    loss, accuracy = history[2]["train_loss"], percent(history[2]["val_accuracy"])
    assert tracker.steps[-1] == (15, 15, "batches", f"epoch 3/3, loss {loss:.3f}, val {accuracy}")


def test_a_batch_larger_than_the_training_set_is_the_training_set(splits, tmp_path):
    files = fit(LINEAR.model_copy(update={"batch_size": 4096, "epochs": 1}), splits, tmp_path)
    assert json.loads(files["recipe.json"])["settings"]["batch_size"] == 300


def test_batch_norm_refuses_single_images(splits, tmp_path):
    with pytest.raises(SettingsError, match=r"train\.batch_size=1 .*raise"):
        fit(TrainSettings(batch_size=1, accelerator="cpu"), splits, tmp_path)


def test_a_loss_that_is_not_finite_names_the_epoch_and_the_remedy_and_writes_no_model(splits, tmp_path):
    settings = CONV.model_copy(update={"optimizer": "sgd", "learning_rate": 1e12, "warmup_fraction": 0.0})
    with pytest.raises(SettingsError, match=r"learning_rate=1e\+12: .* epoch 1; lower train.learning_rate"):
        fit(settings, splits, tmp_path)
    assert list((tmp_path / "model").iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_fails_before_any_data_is_read(splits, tmp_path):
    unreadable = dataclasses.replace(splits, path=tmp_path / "missing")
    with pytest.raises(AcceleratorError, match=r"train\.accelerator=cuda .*set train\.accelerator=auto"):
        fit(LINEAR.model_copy(update={"accelerator": "cuda"}), unreadable, tmp_path)


@pytest.mark.parametrize(
    ("amx", "avx512", "instructions"),
    [(True, True, "AMX"), (False, True, "AVX-512 BF16"), (False, False, "")],
)
def test_auto_takes_bfloat16_where_the_cpu_has_it_and_the_record_names_the_instructions(
    monkeypatch, amx, avx512, instructions
):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    plain, depthwise = (nn.Sequential(nn.Conv2d(4, 4, 3, groups=groups)) for groups in (1, 4))
    assert devices.uses_bfloat16("auto", CPU, plain) == bool(instructions)
    assert not devices.uses_bfloat16("auto", CPU, depthwise)
    assert not devices.uses_bfloat16("off", CPU, plain)
    assert devices.environment(CPU)["bfloat16_instructions"] == instructions


def test_bfloat16_is_refused_on_a_cpu_without_it(monkeypatch):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    with pytest.raises(AcceleratorError, match=r"train\.amp=on .*set train\.amp=auto"):
        devices.uses_bfloat16("on", CPU, nn.Identity())


@pytest.mark.parametrize("damage", ["truncated", "foreign"])
def test_a_checkpoint_that_cannot_be_used_is_ignored_with_a_notice(splits, tmp_path, damage):
    expected = fit(LINEAR, splits, tmp_path / "clean")
    other = LINEAR.model_copy(update={"seed": 5}) if damage == "foreign" else LINEAR
    fit(other, splits, tmp_path / damage)
    path = tmp_path / damage / "checkpoints/checkpoint.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    (tmp_path / damage / "model").rename(tmp_path / damage / "old")
    tracker = Recorder()
    assert fit(LINEAR, splits, tmp_path / damage, tracker=tracker) == expected
    assert tracker.facts["train/checkpoint"].startswith("ignored: ")


def test_a_torchvision_classifier_trains_on_gray_digits_and_is_described_by_name(tmp_path):
    small = write_digits(tmp_path / "splits", num_train=64, num_val=20)
    settings = LINEAR.model_copy(update={"architecture": "torchvision/shufflenet_v2_x0_5", "epochs": 1})
    files = fit(settings, small, tmp_path)
    written = json.loads(files["architecture.json"])
    assert written["torchvision"] == "shufflenet_v2_x0_5"
    assert "layers" not in written
