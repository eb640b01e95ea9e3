"""Which trainings are tried on which images, the features they share, and the folds of a cross-validation."""

import hashlib
import json
import sqlite3

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from gapgate.data.preprocess import preprocess
from gapgate.errors import ArtifactError, SettingsError
from gapgate.evidence.measures.folds import FoldAnswers
from gapgate.network import backbones
from gapgate.onnx.classifier import Classifier
from gapgate.settings.sections import PreprocessSettings, TrainSettings
from gapgate.tracking import NullTracker
from gapgate.training.fit import choose, train
from gapgate.training.pretrained import features
from gapgate.training.recipe import candidates, decided

CPU = torch.device("cpu")
FROZEN = TrainSettings(architecture="frozen", accelerator="cpu")
NUM_IMAGES = 60


class Heard(NullTracker):
    """Tracker that keeps the notes and totals of the progress, and the tags."""

    def __init__(self):
        self.notes, self.done, self.tagged = set(), 0, {}

    def progress(self, done, total, unit, note=""):
        self.notes.add(note)
        self.done += 1

    def tags(self, values):
        self.tagged |= values


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Splits of 60 pictures of two kinds of stripes, prepared for a pretrained network of 32 px, in folds."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        kind = ("across", "down")[number % 2]
        lines = np.where(np.arange(48) // 6 % 2, 200, 60)
        picture = np.tile(lines[:, None] if kind == "across" else lines, (1, 48) if kind == "across" else (48, 1))
        noisy = np.clip(picture[..., None] + rng.integers(-50, 50, (48, 48, 3)), 0, 255).astype(np.uint8)
        (folder / "data" / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(folder / "data" / kind / f"{number}.png")
    (folder / "splits").mkdir()
    return preprocess(PreprocessSettings(size_px=32, num_workers=1), folder / "data", folder / "splits")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def trained(photos, cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    heard = Heard()
    train(TrainSettings(accelerator="cpu"), photos, (), folder, folder.parent / "checkpoints", heard, cache)
    return folder, heard


def test_photos_get_the_frozen_backbone_and_a_new_last_layer(trained):
    folder, heard = trained
    described = json.loads((folder / "architecture.json").read_text())
    recipe = json.loads((folder / "recipe.json").read_text())
    assert described["backbone"]["name"] == "efficientnet_lite0"
    assert described["backbone"]["digest"].startswith("sha256:579344248a93")
    assert recipe["settings"]["architecture"] == heard.tagged["train/architecture"] == "frozen"
    assert [one["architecture"] for one in recipe["tried"]] == ["frozen"]


def test_the_file_that_is_served_answers_as_the_head_on_the_features(trained, photos, cache):
    folder, _ = trained
    rows = photos.in_folds()
    served = Classifier.load(folder / "model.onnx").logits(photos.images[rows])
    found = features.compute(backbones.load("efficientnet_lite0"), photos, rows, CPU, cache, NullTracker())
    backbone = backbones.load("efficientnet_lite0")
    assert json.loads((folder / "transform.json").read_text())["mean"] == pytest.approx(backbone.mean)
    assert (served.argmax(axis=1) == photos.labels[rows]).mean() > 0.95
    assert found.shape == (NUM_IMAGES, 1280)


def test_every_image_is_answered_by_a_model_that_has_not_seen_it(trained, photos):
    folder, _ = trained
    answers = FoldAnswers.read(folder, photos)
    held_out = answers.held_out(photos)
    assert sorted(held_out.rows) == list(range(NUM_IMAGES))
    seen = answers.trained_on(photos)
    counts = np.bincount(seen.rows, minlength=NUM_IMAGES)
    in_train = np.isin(np.arange(NUM_IMAGES), photos.rows("train"))
    assert (counts[in_train] == 4).all()  # by each model but that of its own fold
    assert (counts[~in_train] == 0).all()  # val is in nobody's training
    assert answers.score(photos)["accuracy"] == held_out.correct.mean()


def test_swapped_labels_are_learnt_by_the_models_that_see_them_and_missed_by_the_one_that_does_not(
    photos, cache, tmp_path
):
    wrong = photos.labels.copy()
    swapped = photos.rows("train")[::10]
    wrong[swapped] = 1 - wrong[swapped]
    splits = type(photos)(photos.path, photos.info, photos.images, wrong)
    (tmp_path / "model").mkdir()
    train(FROZEN, splits, (), tmp_path / "model", tmp_path / "checkpoints", NullTracker(), cache)
    answers = FoldAnswers.read(tmp_path / "model", splits)
    missed = answers.held_out(splits)
    assert missed.correct[np.isin(missed.rows, swapped)].mean() < 0.5 < missed.correct.mean()


def test_answers_of_other_images_are_refused(trained, photos, tmp_path):
    folder, _ = trained
    answers = FoldAnswers.read(folder, photos)
    FoldAnswers(answers.rows[1:], answers.logits[:, 1:]).write(tmp_path)
    with pytest.raises(ArtifactError, match="was made of other images than the splits"):
        FoldAnswers.read(tmp_path, photos)
    with pytest.raises(ArtifactError, match="cannot be read"):
        FoldAnswers.read(tmp_path / "none", photos)


def test_features_are_computed_once_and_are_the_same_in_any_order(photos, cache, trained, tmp_path):
    backbone, rows, heard = backbones.load("efficientnet_lite0"), photos.in_folds(), Heard()
    first = features.compute(backbone, photos, rows, CPU, cache, heard)
    assert heard.done == 0  # the training has computed them
    part = features.compute(backbone, photos, rows[[40, 3, 17]], CPU, tmp_path / "new", heard)
    assert np.array_equal(part, first[[40, 3, 17]])


def test_a_damaged_cache_costs_only_time(photos, cache, trained, tmp_path):
    (stored,) = cache.iterdir()
    (tmp_path / stored.name).write_bytes(b"no database" * 100)
    backbone, rows = backbones.load("efficientnet_lite0"), photos.in_folds()[:5]
    expected = features.compute(backbone, photos, rows, CPU, cache, NullTracker())
    assert np.array_equal(features.compute(backbone, photos, rows, CPU, tmp_path, NullTracker()), expected)


def test_features_that_were_cut_off_are_computed_again(photos, cache, trained, tmp_path):
    (stored,) = cache.iterdir()
    (tmp_path / stored.name).write_bytes(stored.read_bytes())
    with sqlite3.connect(tmp_path / stored.name) as db:
        db.execute("UPDATE features SET vector = substr(vector, 1, 100)")
    backbone, rows = backbones.load("efficientnet_lite0"), photos.in_folds()[:5]
    expected = features.compute(backbone, photos, rows, CPU, cache, NullTracker())
    assert np.array_equal(features.compute(backbone, photos, rows, CPU, tmp_path, NullTracker()), expected)


def test_fine_tuning_begins_with_the_frozen_model_and_keeps_the_statistics(photos, cache, tmp_path):
    splits = photos.hold_out(0)
    splits = type(splits)(splits.path, splits.info | {"num_folds": 0}, splits.images, splits.labels, 0)
    settings = TrainSettings(architecture="finetune", epochs=1, learning_rate=1e-5, accelerator="cpu", num_threads=1)
    found = {}
    for name, one in (("frozen", FROZEN), ("finetune", settings)):
        (tmp_path / name).mkdir()
        train(one, splits, (), tmp_path / name, tmp_path / "checkpoints", NullTracker(), cache)
        found[name] = backbones.load(str(tmp_path / name / "weights.safetensors")).weights
    moved = {key: not torch.equal(tensor, found["frozen"][key]) for key, tensor in found["finetune"].items()}
    assert all(changed for key, changed in moved.items() if key.endswith("weight") and "conv" in key)
    assert not any(changed for key, changed in moved.items() if "running" in key)
    images = splits.images[splits.rows("val")]
    near = [Classifier.load(tmp_path / name / "model.onnx").logits(images) for name in found]
    assert np.abs(near[0] - near[1]).max() < 0.2 * np.abs(near[0]).max()


@pytest.mark.parametrize(
    ("network", "num_train", "num_folds", "has_gpu", "expected"),
    [
        ("scratch", 5000, 0, False, ["small"]),
        ("pretrained", 499, 0, False, ["frozen"]),
        ("pretrained", 500, 0, False, ["frozen", "finetune"]),
        ("pretrained", 500, 5, False, ["frozen"]),
        ("pretrained", 500, 5, True, ["frozen", "finetune"]),
    ],
)
def test_auto_tries_what_suits_the_images(network, num_train, num_folds, has_gpu, expected):
    splits = Splits(network, num_train, num_folds)
    assert [one.architecture for one in candidates(TrainSettings(), splits, has_gpu=has_gpu)] == expected
    named = TrainSettings(architecture="tutorial")
    assert candidates(named, splits, has_gpu=has_gpu) == (named,)


class Splits:
    """What a recipe looks at."""

    def __init__(self, network, num_train, num_folds=0):
        self.network, self.num_folds, self._num_train = network, num_folds, num_train

    def rows(self, split):
        return range(self._num_train)


@pytest.mark.parametrize(
    ("architecture", "num_train", "expected"),
    [
        ("small", 5000, (20, 64, 0.003)),
        ("small", 200, (20, 16, 0.003)),
        ("small", 40, (20, 8, 0.003)),
        ("small", 3, (20, 3, 0.003)),
        ("finetune", 5000, (8, 32, 0.001)),
    ],
)
def test_auto_numbers_suit_the_training_and_the_size_of_the_set(architecture, num_train, expected):
    recipe = decided(TrainSettings(architecture=architecture), Splits("scratch", num_train))
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == expected
    named = decided(
        TrainSettings(architecture=architecture, epochs=3, batch_size=2, learning_rate=0.5), Splits("scratch", 9)
    )
    assert (named.epochs, named.batch_size, named.learning_rate) == (3, 2, 0.5)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([(0.5, 0.8), (0.4, 0.8)], 1),
        ([(0.5, 0.8), (0.4, 0.79)], 0),
        ([(0.5, 0.8), (0.6, 0.9)], 0),
        ([(0.5, 0.8), (0.5, 0.9)], 0),
        ([(0.5, 0.8), (0.4, 0.8), (0.45, 0.9)], 1),  # against the one that is kept, not against the first
        ([(0.5, 0.8)], 0),
    ],
)
def test_a_later_training_is_kept_only_if_its_loss_is_lower_and_its_accuracy_no_worse(scores, expected):
    assert choose([{"loss": loss, "accuracy": accuracy} for loss, accuracy in scores]) == expected


def test_a_backbone_that_takes_other_images_stops_before_training(photos, tmp_path):
    with pytest.raises(SettingsError, match=r"train\.backbone=nowhere is unknown"):
        train(FROZEN.model_copy(update={"backbone": "nowhere"}), photos, (), tmp_path, tmp_path / "c", NullTracker())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_onnx_file_of_ones_own_is_a_backbone_that_is_kept_as_it_is(photos, cache, tmp_path):
    path = tmp_path / "own.onnx"
    height, width, _ = photos.image_shape
    torch.manual_seed(0)
    own = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 8, stride=8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2))
    torch.onnx.export(
        own,
        (torch.zeros(1, 3, height, width),),
        path,
        dynamo=False,
        input_names=["images"],
        dynamic_axes={"images": {0: "N"}},
    )
    folder = tmp_path / "model"
    folder.mkdir()
    settings = TrainSettings(accelerator="cpu", backbone=str(path))
    train(settings, photos, (), folder, tmp_path / "checkpoints", NullTracker(), cache)
    described = json.loads((folder / "architecture.json").read_text())
    assert described["onnx"] == described["backbone"]["name"] == str(path)
    assert described["backbone"]["digest"] == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert described["num_parameters"] == 3 * 16 * 64 + 16 + 64 * 2 + 2
    parity = load_file(folder / "parity.safetensors")
    served = Classifier.load(folder / "model.onnx").logits(parity["images"])
    np.testing.assert_allclose(served, parity["logits"], atol=1e-4)
    assert (FoldAnswers.read(folder, photos).held_out(photos)).correct.mean() > 0.8
