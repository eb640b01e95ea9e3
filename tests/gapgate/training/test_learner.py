"""What a setting of the training changes in one step, by hand, on a dense layer and real digits."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from gapgate.errors import SettingsError
from gapgate.network import modules
from gapgate.network.layers import BatchNorm, Dense, Dropout, Flatten
from gapgate.settings.sections import TrainSettings
from gapgate.tracking import NullTracker
from gapgate.training import batches, learner, loop
from gapgate.training.augmentation.policy import Mixup, Rotate
from gapgate.training.learner import Learner, Progress
from gapgate.training.loop import (
    _check_finite,
    _identity,
    _totals,
    fit,
    metrics_of,
    train_epoch,
    train_step,
    validate,
)
from gapgate.training.recipe import decided
from gapgate.training.trained import Trained
from tests.gapgate.digit_splits import Recorder, write_digits

CPU = torch.device("cpu")
SGD = TrainSettings(
    architecture="softmax", epochs=3, batch_size=64, learning_rate=0.5, optimizer="sgd", momentum=0.0, weight_decay=0.0,
    schedule="constant", accelerator="cpu", num_threads=1, num_shards=1, amp="off",
)  # fmt: skip


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits") / "splits", num_train=150, num_val=90)


@pytest.fixture(scope="module")
def batch(splits):
    return next(batches.open_batches(splits, "train", CPU).read([torch.arange(64)]))


def changed(**settings):
    return TrainSettings.model_validate(SGD.model_dump() | settings)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).clone()


def gradient(model, images, labels):
    """The gradient of the mean cross-entropy, flattened."""
    loss = functional.cross_entropy(model(images), labels)
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.parametrize("limit", [0.0, 0.01, 1e6])
def test_a_step_goes_down_the_gradient_scaled_to_the_largest_norm(splits, batch, limit):
    with Learner(changed(max_gradient_norm=limit), splits, (), CPU) as learning:
        before = weights(learning.model)
        found = gradient(learning.model, learning.normalised(batch[0]), batch[1])
        assert found.norm() > 0.05
        train_step(learning, *batch, learning_rate=0.5)
        scale = min(1.0, limit / float(found.norm())) if limit else 1.0
        torch.testing.assert_close(weights(learning.model), before - 0.5 * scale * found, rtol=1e-4, atol=1e-6)


def test_the_averaged_weights_are_kept_judged_and_returned(splits, batch):
    with Learner(changed(ema_decay=0.9), splits, (), CPU) as learning:
        expected = weights(learning.model)
        for step in range(1, 4):
            train_step(learning, *batch, learning_rate=0.5)
            decay = (1 + step) / (10 + step)  # below 0.9 for the first 80 steps
            expected = decay * expected + (1 - decay) * weights(learning.model)
        assert not torch.allclose(expected, weights(learning.model), atol=1e-3)
        torch.testing.assert_close(weights(learning.kept_model), expected)
        torch.testing.assert_close(weights(learning.result()), expected)
    with Learner(changed(ema_decay=0.1), splits, (), CPU) as learning:
        start = weights(learning.model)
        train_step(learning, *batch, learning_rate=0.5)
        torch.testing.assert_close(weights(learning.kept_model), 0.1 * start + 0.9 * weights(learning.model))


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_with_patience_the_weights_of_the_best_epoch_are_returned_as_they_were_judged(splits, batch, ema_decay):
    with Learner(changed(ema_decay=ema_decay, patience=2), splits, (), CPU) as learning:
        train_step(learning, *batch, learning_rate=0.5)
        learning.keep_best()
        best = weights(learning.kept_model)
        train_step(learning, *batch, learning_rate=0.5)
        assert not torch.allclose(best, weights(learning.kept_model), atol=1e-4)
        found = learning.result()
        torch.testing.assert_close(weights(found), best, rtol=0, atol=0)
        assert not any(module.training for module in found.modules())
        parts = {"model", "best", *(["average"] if ema_decay else [])}
        assert {name.partition(".")[0] for name in learning.tensors()} - {"optimizer"} == parts


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_a_learner_that_takes_over_all_tensors_makes_the_same_next_step(splits, batch, optimizer):
    settings = changed(optimizer=optimizer, momentum=0.9, weight_decay=0.01, ema_decay=0.5, patience=1)
    with Learner(settings, splits, (), CPU) as one, Learner(settings, splits, (), CPU) as other:
        for rate in (0.01, 0.02):
            train_step(one, *batch, learning_rate=rate)
        one.keep_best()
        taken = {name: tensor.clone() for name, tensor in one.tensors().items()}
        with torch.no_grad():
            for name, tensor in other.tensors().items():
                tensor.copy_(taken[name])
        for learning in (one, other):
            train_step(learning, *batch, learning_rate=0.03)
        for name, tensor in one.tensors().items():
            assert torch.equal(tensor, other.tensors()[name]), name


def test_the_loss_is_summed_in_float32_whatever_the_logits_are(splits):
    logits = torch.randn(400, 10, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.arange(400) % 10
    with Learner(SGD, splits, (), CPU) as learning:
        found = learning.loss(logits, labels)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, functional.cross_entropy(logits.float(), labels, reduction="sum"))


def test_a_compiled_network_is_one_shard_of_all_threads(splits, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: None)
    settings, before = changed(num_shards=4, num_threads=3), torch.get_num_threads()
    for is_compiled, num_shards, num_threads in ((False, 4, 1), (True, 1, 3)):
        with Learner(settings.model_copy(update={"compile": is_compiled}), splits, (), CPU) as learning:
            assert (len(learning.shards), torch.get_num_threads()) == (num_shards, num_threads)
        assert torch.get_num_threads() == before


def test_first_weights_follow_from_the_seed_alone(splits):
    def first(seed, state):
        torch.manual_seed(state)
        return weights(Learner(changed(seed=seed), splits, (), CPU).model)

    assert torch.equal(first(0, state=1), first(0, state=2))
    assert not torch.equal(first(0, state=1), first(1, state=1))


def test_the_learning_rate_is_that_of_the_schedule_over_all_epochs(splits):
    # 3 epochs of 10 steps; a rise over 0.2 · 30 = 6 steps, then half a cosine over 24.
    rate = Learner(changed(schedule="cosine", warmup_fraction=0.2), splits, (), CPU).learning_rate
    assert [rate(step, 10) for step in (0, 5)] == pytest.approx([0.5 / 6, 0.5])
    assert [rate(step, 10) for step in (6, 18, 30)] == pytest.approx([0.5, 0.25, 0.0])
    cycle = Learner(changed(schedule="one_cycle", warmup_fraction=0.2), splits, (), CPU).learning_rate
    assert [cycle(step, 10) for step in (0, 5, 29)] == pytest.approx([0.5 / 25, 0.5, 0.5 / 250_000])
    constant = Learner(SGD, splits, (), CPU).learning_rate
    assert {constant(step, 10) for step in (0, 5, 29)} == {0.5}


def test_a_training_that_begins_with_a_model_leaves_it_alone_and_moves_its_lower_layers_by_a_tenth(splits, batch):
    layers, shape = (Flatten(), Dense(units=6), BatchNorm(), Dense()), (8, 8, 1)
    torch.manual_seed(1)
    model = modules.build(layers, shape, 10).eval()
    model.get_submodule("2_batch_norm").running_mean.fill_(0.25)
    begun = Trained(decided(SGD, splits), model, [0.2], [0.4], [], {})
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with Learner(SGD, splits, (), CPU, begun) as learning:
        learning.start_epoch(1, 64)
        inputs = learning.normalised(batch[0])
        torch.testing.assert_close(inputs, (batch[0].permute(0, 3, 1, 2) / 255 - 0.2) / 0.4)
        loss = functional.cross_entropy(model(inputs), batch[1])  # in evaluation mode: with its own statistics
        found = torch.autograd.grad(loss, list(model.parameters()))
        train_step(learning, *batch, learning_rate=0.5)
        # The model that was given still has its weights.
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, state[name]), name
        for (name, after), part in zip(learning.model.named_parameters(), found, strict=True):
            share = 1.0 if name.startswith("3_dense") else 0.1
            torch.testing.assert_close(after.detach(), state[name] - 0.5 * share * part, rtol=1e-4, atol=1e-6)
        assert torch.equal(learning.model.get_submodule("2_batch_norm").running_mean, torch.full((6,), 0.25))


def test_a_training_from_a_model_keeps_its_normalisation_and_backbone_and_counts_its_operations(splits, tmp_path):
    model = modules.build((Flatten(), Dense()), (8, 8, 1), 10).eval()
    begun = Trained(decided(SGD, splits), model, [0.2], [0.4], [], {}, "a backbone")
    recipe = decided(changed(epochs=1), splits)
    operations = [Rotate(), Rotate()]
    found = fit(recipe, splits, operations, CPU, tmp_path / "checkpoints", NullTracker(), begun)
    assert (found.mean, found.std, found.backbone, found.num_operations) == ([0.2], [0.4], "a backbone", 2)
    plain = fit(recipe, splits, (), CPU, tmp_path / "plain", NullTracker())
    assert (plain.mean, plain.std) == (splits.info["mean"], splits.info["std"])
    assert (plain.backbone, plain.num_operations) == (None, 0)


@pytest.mark.parametrize(
    ("num_images", "size", "is_refused"), [(3, 2, True), (4, 2, False), (5, 4, False), (9, 4, False), (1, 4, True)]
)
def test_batch_norm_is_refused_where_the_smallest_batch_has_one_image(num_images, size, is_refused):
    # Sizes differ by one: 3 images in batches of 2 are 2 + 1, 5 in batches of 4 are 3 + 2, 9 are 3 + 3 + 3.
    settings = changed(batch_size=size)
    plain = modules.build((Flatten(), Dense()), (8, 8, 1), 10)
    normed = modules.build((Flatten(), BatchNorm(), Dense()), (8, 8, 1), 10)
    learner._check_batch_size(settings, plain, num_images)
    if not is_refused:
        learner._check_batch_size(settings, normed, num_images)
        return
    with pytest.raises(SettingsError, match=f"batch_size={size} makes a batch of one image"):
        learner._check_batch_size(settings, normed, num_images)


class Labelled:
    """Splits of five training images of three classes, and a class without any."""

    labels = np.array([0, 0, 0, 1, 2, 3, 3], np.int32)
    class_names = ("a", "b", "c", "d")

    def rows(self, split):
        return {"train": np.arange(5), "val": np.array([5, 6])}[split]


def test_a_class_weighs_the_more_the_fewer_training_images_it_has_and_one_without_any_as_one_of_one():
    found = learner._class_weights(changed(class_weights="balanced"), Labelled(), CPU)
    assert found.tolist() == pytest.approx([5 / (4 * 3), 5 / 4, 5 / 4, 5 / 4])
    assert learner._class_weights(SGD, Labelled(), CPU) is None


class Timed(Learner):
    """A learner that keeps the steps of which the rate was asked."""

    def learning_rate(self, step, steps_per_epoch):
        self.steps.append((step, steps_per_epoch))
        return 0.0


def test_the_figures_of_an_epoch_are_means_over_its_images_and_its_steps_go_on_from_the_last(splits):
    layers = (Flatten(), Dense())
    settings = TrainSettings.model_validate(
        SGD.model_dump() | {"architecture": layers, "label_smoothing": 0.1, "class_weights": "balanced"}
    )
    with Timed(settings, splits, (), CPU) as learning:
        learning.steps, done = [], []
        data = batches.open_batches(splits, "train", CPU)
        found = train_epoch(learning, data, 2, done.append)
        # 150 images in batches of 50; the rate of 0 leaves the weights as they are.
        assert learning.steps == [(3, 3), (4, 3), (5, 3)]
        assert done == [1, 2, 3]
        ((images, labels),) = data.read([torch.arange(150)])
        logits = learning.model(learning.normalised(images)).detach()
        assert found[0] == pytest.approx(float(learning.loss(logits, labels)) / 150, rel=1e-5)
        assert found[1] == pytest.approx(float((logits.argmax(1) == labels).double().mean()))


def test_validation_is_plain_cross_entropy_of_the_kept_model_as_it_will_be_served(splits, batch, monkeypatch):
    layers = (Dropout(probability=0.5), Flatten(), Dense())
    settings = TrainSettings.model_validate(
        SGD.model_dump()
        | {"architecture": layers, "label_smoothing": 0.3, "class_weights": "balanced", "ema_decay": 0.9}
    )
    monkeypatch.setattr("gapgate.training.loop.VALIDATION_BATCH_SIZE", 40)  # 40, 40 and 10 images
    with Learner(settings, splits, [Rotate()], CPU) as learning:
        learning.start_epoch(1, 64)
        for _ in range(3):
            train_step(learning, *batch, learning_rate=0.5)
        data = batches.open_batches(splits, "val", CPU)
        loss, accuracy = validate(learning, data)
        ((images, labels),) = data.read([torch.arange(90)])
        assert labels.tolist() == splits.labels[splits.rows("val")].tolist()
        linear = learning.average.model.get_submodule("2_dense")
        pixels = (images.permute(0, 3, 1, 2) / 255 - splits.info["mean"][0]) / splits.info["std"][0]
        logits = functional.linear(pixels.flatten(1), linear.weight, linear.bias)
        assert loss == pytest.approx(float(functional.cross_entropy(logits, labels)), rel=1e-4)
        assert accuracy == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
        # An epoch begins in training mode again.
        learning.start_epoch(2, 64)
        assert all(module.training for module in learning.model.modules())


@pytest.mark.parametrize("losses", [(math.nan, 0.5), (0.5, math.inf), (0.5, math.nan)])
def test_a_loss_of_either_side_that_is_not_finite_ends_the_training(splits, losses):
    recipe = decided(SGD, splits)
    _check_finite(recipe, 4, 0.5, 0.5)
    with pytest.raises(SettingsError, match=r"learning_rate=0\.5: the loss is not finite in epoch 4"):
        _check_finite(recipe, 4, *losses)


@pytest.mark.parametrize(("train_loss", "val_loss"), [(math.nan, 0.5), (0.5, math.nan)])
def test_an_epoch_whose_loss_is_no_number_is_not_reported(splits, monkeypatch, train_loss, val_loss):
    monkeypatch.setattr(loop, "train_epoch", lambda *_: (train_loss, 0.5))
    monkeypatch.setattr(loop, "validate", lambda *_: (val_loss, 0.5))
    tracker = Recorder()
    with Learner(SGD, splits, (), CPU) as learning:
        data = batches.open_batches(splits, "train", CPU)
        with pytest.raises(SettingsError, match="not finite in epoch 2"):
            loop._epoch(learning, data, data, 2, tracker)
    assert tracker.epochs == {}


def test_an_epochs_line_has_the_rate_of_its_last_step_its_speed_and_the_memory_in_bytes(splits, monkeypatch):
    monkeypatch.setattr(loop, "train_epoch", lambda *_: (0.5, 0.75))
    monkeypatch.setattr(loop, "validate", lambda *_: (0.25, 0.875))
    monkeypatch.setattr(loop.time, "perf_counter", iter([10.0, 10.5]).__next__)
    tracker = Recorder()
    with Timed(SGD, splits, (), CPU) as learning:
        learning.steps = []
        data = batches.open_batches(splits, "train", CPU)
        line = loop._epoch(learning, data, data, 2, tracker)
        assert learning.steps == [(5, 3)]  # of steps 0 to 8, the last of the second three
    figures = {"train_loss": 0.5, "train_accuracy": 0.75, "val_loss": 0.25, "val_accuracy": 0.875}
    assert line == {"epoch": 2, **figures, "learning_rate": 0.0}
    assert tracker.epochs[2]["train/images_per_s"] == 300  # 150 in half a second
    assert 2**26 < tracker.epochs[2]["system/peak_memory_bytes"] < 2**38


def test_training_is_in_bfloat16_where_it_is_used_and_validation_never(splits, batch):
    with Learner(SGD, splits, (), CPU) as learning:
        kinds = []
        learning.model.get_submodule("1_dense").register_forward_hook(lambda *call: kinds.append(call[2].dtype))
        for is_used in (False, True):
            learning._bfloat16 = is_used
            train_step(learning, *batch, learning_rate=0.1)
        validate(learning, batches.open_batches(splits, "val", CPU))
        assert kinds == [torch.float32, torch.bfloat16, torch.float32]


def test_a_checkpoint_holds_the_best_weights_up_to_its_own_epoch(splits, tmp_path, monkeypatch):
    seen, losses = [], iter([0.5, 0.3, 0.4])
    monkeypatch.setattr(loop, "validate", lambda *_: (next(losses), 0.5))

    def save(folder, identity, tensors, progress):
        kept = {name: tensor.clone() for name, tensor in tensors.items()}
        seen.append((kept, progress["best_epoch"], len(progress["history"])))

    monkeypatch.setattr(loop.checkpoint, "save", save)
    fit(decided(changed(patience=5), splits), splits, (), CPU, tmp_path, NullTracker())
    assert [(best, epochs) for _, best, epochs in seen] == [(1, 1), (2, 2), (2, 3)]
    name = "1_dense.weight"
    for tensors, best, _ in seen:
        assert torch.equal(tensors[f"best.{name}"], seen[best - 1][0][f"model.{name}"])


class EndedAt(Recorder):
    """A tracker that ends the training while it hears of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.last = epoch

    def metrics(self, values, step=0):
        if step == self.last:
            raise KeyboardInterrupt
        super().metrics(values, step)


def test_a_resumed_training_knows_its_best_epoch(splits, tmp_path, monkeypatch):
    losses = {1: 0.3, 2: 0.5, 3: 0.6, 4: 0.4, 5: 0.2}
    epochs = iter((1, 2, 3, 3, 4, 5))  # the third begins twice
    monkeypatch.setattr(loop, "validate", lambda *_: (losses[next(epochs)], 0.5))
    recipe, tracker = decided(changed(epochs=9, patience=3), splits), Recorder()
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, splits, (), CPU, tmp_path, EndedAt(3))
    found = fit(recipe, splits, (), CPU, tmp_path, tracker)
    # Three epochs after the first, the best, the training ends before the fifth would have been better.
    assert [line["val_loss"] for line in found.history] == [0.3, 0.5, 0.6, 0.4]
    assert tracker.facts["train/checkpoint"] == "resumed after epoch 2"


def test_a_checkpoint_belongs_to_its_settings_operations_and_splits(splits):
    recipe, other = decided(SGD, splits), decided(changed(seed=1), splits)
    others = type(splits)(splits.path, splits.info | {"mean": [0.1]}, splits.images, splits.labels)
    found = [
        _identity(recipe, splits, [Rotate()]),
        _identity(other, splits, [Rotate()]),
        _identity(recipe, others, [Rotate()]),
        _identity(recipe, splits, []),
        _identity(recipe, splits, [Rotate(max_degrees=9.0)]),
        _identity(recipe, splits, [Rotate(), Mixup()]),
    ]
    assert len(set(found)) == 6
    assert found[0] == _identity(decided(SGD, splits), splits, [Rotate()])


def test_a_mixed_image_counts_as_the_class_of_its_larger_part():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 2.0]])
    mixed = torch.tensor([[0.6, 0.4, 0.0], [0.0, 0.7, 0.3], [0.0, 0.9, 0.1]])
    assert _totals(torch.tensor(1.5), logits, mixed).tolist() == [1.5, 2.0]
    assert _totals(torch.tensor(1.5), logits, torch.tensor([0, 2, 0])).tolist() == [1.5, 2.0]


def test_an_epochs_figures_have_the_names_of_metrics():
    figures = {"epoch": 3, "train_loss": 1.0, "val_accuracy": 0.5, "learning_rate": 0.1}
    assert metrics_of(figures) == {"train/loss": 1.0, "val/accuracy": 0.5, "train/learning_rate": 0.1}


def test_progress_is_that_of_the_epochs_it_was_told():
    progress = Progress()
    for loss in (0.5, 0.4, 0.6):
        progress.add({"val_loss": loss})
    assert (progress.epoch, progress.best_epoch, progress.best_loss) == (3, 2, 0.4)
