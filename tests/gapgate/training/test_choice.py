"""What `fit` hands to the last layer on fixed features, and which of several trainings it keeps; nothing is trained."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from gapgate.errors import DataError
from gapgate.settings.sections import TrainSettings
from gapgate.tracking import NullTracker
from gapgate.training import fit
from gapgate.training.recipe import decided
from tests.gapgate.digit_splits import Recorder
from tests.gapgate.onnx_models import write_splits

NAMES = ["a", "b", "c"]


@pytest.fixture
def splits(tmp_path):
    """Ninety images in groups of three: 60 of train, 20 of val and 10 of test."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90).astype(np.int32)
    groups = [f"g{row // 3}" for row in range(90)]
    return write_splits(tmp_path / "splits", np.zeros((90, 4, 4, 1), np.uint8), labels, NAMES, (60, 20), groups)


class Backbone:
    """A network whose features are those of the test."""

    name, mean, std = "own", (0.25,), (0.75,)

    def build(self, image_shape, num_classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(5, num_classes))


@pytest.mark.parametrize(("class_weights", "seed"), [("none", 3), ("balanced", 0)])
def test_the_last_layer_is_fitted_to_train_with_its_groups_and_judged_on_both(
    splits, tmp_path, monkeypatch, class_weights, seed
):
    all_features = np.random.default_rng(1).normal(size=(90, 5)).astype(np.float32)
    all_features[:, :3] += 2 * np.eye(3, dtype=np.float32)[splits.labels]
    monkeypatch.setattr(fit.backbones, "load", lambda name: Backbone())
    monkeypatch.setattr(fit.features, "compute", lambda backbone, splits, rows, *_: all_features[rows])
    given, real = [], fit.linear_head.fit

    def fit_head(*args, **options):
        given.append((*args, options))
        return real(*args, **options)

    monkeypatch.setattr(fit.linear_head, "fit", fit_head)
    tracker, settings = Recorder(), TrainSettings(architecture="frozen", class_weights=class_weights, seed=seed)
    job = fit._Job(splits, (), torch.device("cpu"), tmp_path, tmp_path, tracker)
    found = job._fit_head(decided(settings, splits))
    ((features, labels, num_classes, options),) = given
    np.testing.assert_array_equal(features, all_features[:60])
    assert (labels.tolist(), num_classes) == (splits.labels[:60].tolist(), 3)
    assert options["groups"].tolist() == splits.groups()[:60].tolist()
    assert (options["is_balanced"], options["seed"]) == (class_weights == "balanced", seed)
    assert (found.mean, found.std, found.backbone.name) == ((0.25,), (0.75,), "own")
    # The layer is in the network, and the figures are its own on each split.
    last = found.model[1]
    (line,) = found.history
    for name, rows in (("train", slice(0, 60)), ("val", slice(60, 80))):
        with torch.no_grad():
            logits = last(torch.from_numpy(all_features[rows]))
        classes = torch.from_numpy(splits.labels[rows].astype(np.int64))
        loss, accuracy = functional.cross_entropy(logits, classes), (logits.argmax(1) == classes).float().mean()
        assert line[f"{name}_loss"] == pytest.approx(float(loss), rel=1e-4)
        assert line[f"{name}_accuracy"] == pytest.approx(float(accuracy))
        assert tracker.epochs[1][f"{name}/loss"] == line[f"{name}_loss"]


class Answers:
    """What the models of a cross-validation answered."""

    def __init__(self, loss, accuracy):
        self.scored, self.written = {"loss": loss, "accuracy": accuracy}, []

    def score(self, splits):
        return self.scored

    def write(self, folder):
        self.written.append(folder)


@pytest.mark.parametrize("is_folded", [False, True])
def test_folds_decide_between_trainings_where_there_are_some_and_val_elsewhere(
    splits, tmp_path, monkeypatch, is_folded
):
    settings = [TrainSettings(architecture=name) for name in ("small", "tutorial")]
    # On val the first is better, in the folds the second.
    fitted = [
        SimpleNamespace(recipe=decided(one, splits), val_score={"loss": loss, "accuracy": 0.5})
        for one, loss in zip(settings, (0.4, 0.5), strict=True)
    ]
    answers = [Answers(0.6, 0.625), Answers(0.3, 0.75)]
    written = []
    monkeypatch.setattr(fit, "candidates", lambda *_, **__: settings)
    monkeypatch.setattr(fit._Job, "fit_all", lambda self, tried: fitted)
    monkeypatch.setattr(fit._Job, "cross_validate", lambda self, tried: answers)
    monkeypatch.setattr(fit.model_artifact, "write", lambda *args: written.append(args))
    tracker = Recorder()
    folded = type(splits)(splits.path, splits.info | {"num_folds": 5 * is_folded}, splits.images, splits.labels)
    fit.train(TrainSettings(accelerator="cpu"), folded, (), tmp_path / "model", tmp_path / "checkpoints", tracker)
    ((out_dir, _, kept, told, why),) = written
    assert (out_dir, kept) == (tmp_path / "model", fitted[1 if is_folded else 0])
    assert tracker.facts["train/architecture"] == ("tutorial" if is_folded else "small")
    assert [one.written for one in answers] == ([[], [tmp_path / "model"]] if is_folded else [[], []])
    scores = [one.scored for one in answers] if is_folded else [one.val_score for one in fitted]
    assert told == [{"architecture": name, **score} for name, score in zip(("small", "tutorial"), scores, strict=True)]
    assert why == (
        "tried on the held-out folds: small 62.5 % (loss 0.600), tutorial 75.0 % (loss 0.300); kept tutorial"
        if is_folded
        else "tried on val: small 50.0 % (loss 0.400), tutorial 50.0 % (loss 0.500); kept small"
    )


@pytest.mark.parametrize("given", [None, "cache"])
def test_features_are_kept_in_the_place_of_all_trainings_or_with_the_checkpoints(splits, tmp_path, monkeypatch, given):
    asked = []

    def fit_all(self, tried):
        self._features("a backbone", np.arange(3))
        raise KeyboardInterrupt

    monkeypatch.setattr(fit._Job, "fit_all", fit_all)
    monkeypatch.setattr(fit.features, "compute", lambda *args: asked.append(args[4]))
    cache = given and tmp_path / given
    with pytest.raises(KeyboardInterrupt):
        fit.train(
            TrainSettings(accelerator="cpu"), splits, (), tmp_path, tmp_path / "checkpoints", NullTracker(), cache
        )
    assert asked == [tmp_path / (given or "checkpoints")]


def test_each_training_has_its_own_settings_and_fine_tuning_begins_with_the_frozen_one(splits, tmp_path, monkeypatch):
    made = []

    def fit_network(self, recipe, begun):
        made.append((recipe.name, recipe.learning_rate, begun))
        return f"trained {recipe.name}"

    monkeypatch.setattr(fit._Job, "_fit_network", fit_network)
    monkeypatch.setattr(fit._Job, "_fit_head", lambda self, recipe: f"head of {recipe.name}")
    job = fit._Job(splits, (), torch.device("cpu"), tmp_path, tmp_path, NullTracker())

    def settings(name, rate):
        return TrainSettings(architecture=name, learning_rate=rate)

    assert job.fit_all([settings("small", 0.1), settings("tutorial", 0.2)]) == ["trained small", "trained tutorial"]
    assert job.fit_all([settings("frozen", 0.1), settings("finetune", 0.3)]) == ["head of frozen", "trained finetune"]
    # Without a frozen one before it, it makes one.
    assert job.fit_all([settings("finetune", 0.4)]) == ["trained finetune"]
    assert made == [
        ("small", 0.1, None), ("tutorial", 0.2, None), ("finetune", 0.3, "head of frozen"),
        ("finetune", 0.4, "head of finetune"),
    ]  # fmt: skip


@pytest.mark.parametrize("architecture", ["frozen", "finetune"])
def test_a_fine_tuned_network_answers_by_itself_and_not_by_the_features_of_its_backbone(
    splits, tmp_path, monkeypatch, architecture
):
    model = Backbone().build((4, 4, 1), 3)
    trained = SimpleNamespace(
        recipe=decided(TrainSettings(architecture=architecture), splits), backbone=Backbone(), model=model
    )
    features = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    monkeypatch.setattr(fit.features, "compute", lambda *_: features)
    monkeypatch.setattr(fit.model_artifact, "logits", lambda trained, images: f"of {len(images)} images")
    job = fit._Job(splits, (), torch.device("cpu"), tmp_path, tmp_path, NullTracker())
    found = job.logits(trained, np.array([3, 4]))
    if architecture == "finetune":
        assert found == "of 2 images"
        return
    weight, bias = (part.detach().numpy() for part in model[1].parameters())
    np.testing.assert_allclose(found, features @ weight.T + bias, atol=1e-6)


@pytest.mark.parametrize("name", ["train", "val"])
def test_a_split_without_images_stops_before_the_training(splits, tmp_path, name):
    np.save(splits.path / f"{name}.npy", np.array([], np.int64))
    with pytest.raises(DataError, match=f"^{name} has no images"):
        fit.train(TrainSettings(accelerator="cpu"), splits, (), tmp_path, tmp_path, NullTracker())


def test_each_fold_is_trained_without_its_images_in_a_place_of_its_own_and_answers_all(splits, tmp_path, monkeypatch):
    np.save(splits.path / "folds.npy", np.array([row % 3 if row < 80 else -1 for row in range(90)], np.int8))
    folded = type(splits)(splits.path, splits.info | {"num_folds": 3}, splits.images, splits.labels)
    jobs = []

    def fit_all(self, tried):
        jobs.append(self)
        return [f"{one} {len(jobs)}" for one in tried]

    monkeypatch.setattr(fit._Job, "fit_all", fit_all)
    monkeypatch.setattr(
        fit._Job, "logits", lambda self, trained, rows: np.full((len(rows), 3), len(trained) + int(trained[-1]))
    )
    job = fit._Job(folded, (), torch.device("cpu"), tmp_path, tmp_path / "cache", NullTracker())
    one, other = job.cross_validate(["ab", "wxyz"])
    assert [made.splits.held_out for made in jobs] == [0, 1, 2]
    assert [made.checkpoint_dir for made in jobs] == [tmp_path / f"fold-{fold}" for fold in range(3)]
    assert {made.feature_cache for made in jobs} == {tmp_path / "cache"}
    for found, length in ((one, 4), (other, 6)):
        assert found.rows.tolist() == list(range(80))
        assert found.logits.shape == (3, 80, 3)
        assert found.logits[:, 7, 1].tolist() == [length + 1, length + 2, length + 3]
