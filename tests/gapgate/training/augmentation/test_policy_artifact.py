"""The policy artifact on real digits: the sheet, and the copies written as arrays."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from gapgate.data.splits import Splits
from gapgate.settings.sections import AugmentSettings
from gapgate.training.augmentation import policy_artifact
from gapgate.training.augmentation.policy import Mixup, Rotate, Translate
from tests.gapgate.digit_splits import Recorder, write_digits

SHIFT_AND_TURN = (Translate(), Rotate())


@pytest.fixture
def digits(tmp_path):
    return write_digits(tmp_path / "splits", num_train=60, num_val=10)


def written(settings, splits, folder, tracker=None):
    folder.mkdir()
    policy_artifact.write_policy(settings, splits, folder, tracker)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def sheet_of(folder):
    with Image.open(folder / "preview.png") as sheet:
        return np.asarray(sheet)


def test_the_policy_is_written_as_in_the_settings(digits, tmp_path):
    files = written(AugmentSettings(operations=SHIFT_AND_TURN, seed=5), digits, tmp_path / "policy")
    assert set(files) == {"policy.json", "preview.png"}
    policy = json.loads(files["policy.json"])
    assert policy["seed"] == 5
    assert AugmentSettings.model_validate(policy).operations == SHIFT_AND_TURN


def test_equal_settings_give_equal_bytes_and_another_seed_another_sheet(digits, tmp_path):
    settings = AugmentSettings(operations=(*SHIFT_AND_TURN, Mixup()), materialize=2)
    first = written(settings, digits, tmp_path / "a")
    assert first == written(settings, digits, tmp_path / "b")
    other = written(settings.model_copy(update={"seed": 1}), digits, tmp_path / "c")
    assert all(first[name] != other[name] for name in ("preview.png", "materialized.npy", "policy.json"))


def test_the_samples_are_of_different_classes(digits):
    rows = policy_artifact._samples(digits, 12)
    assert sorted(digits.labels[rows][:10]) == list(range(10))
    assert set(rows) <= set(digits.rows("train"))
    assert len(set(rows)) == 12


def test_the_sheet_shows_each_sample_as_it_is_in_its_first_column(digits, tmp_path):
    written(AugmentSettings(operations=SHIFT_AND_TURN, preview_images=4), digits, tmp_path / "policy")
    sheet = sheet_of(tmp_path / "policy")[..., 0]
    tile = np.kron(digits.images[policy_artifact._samples(digits, 4)[2]][..., 0], np.ones((14, 14)))
    windows = np.lib.stride_tricks.sliding_window_view(sheet[:, 16 : 16 + 112], 112, axis=0)
    assert any(np.array_equal(window.T, tile) for window in windows)


def test_without_operations_the_sheet_says_so_and_shows_the_samples_alone(digits, tmp_path):
    assert policy_artifact._title(AugmentSettings(operations=())) == [
        "No augmentation: training sees every image as it is."
    ]
    written(AugmentSettings(operations=()), digits, tmp_path / "none")
    written(AugmentSettings(operations=SHIFT_AND_TURN), digits, tmp_path / "some")
    widths = [sheet_of(tmp_path / name).shape[1] for name in ("none", "some")]
    assert widths[0] < widths[1] / 2


def test_large_colour_images_are_shown_at_their_own_size(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.integers(0, 256, (3, 224, 224, 3), dtype=np.uint8))
    np.save(tmp_path / "labels.npy", np.array([0, 1, 1], dtype=np.int32))
    np.save(tmp_path / "train.npy", np.array([0, 2]))
    (tmp_path / "splits.json").write_text('{"class_names": ["cat", "a class name that is wider than its picture is"]}')
    written(AugmentSettings(operations=(Mixup(),)), Splits.open(tmp_path), tmp_path / "policy")
    height, width, _ = sheet_of(tmp_path / "policy").shape
    assert 8 * 224 < width < 9 * 224
    assert 2 * 224 < height < 3 * 224


@pytest.mark.parametrize("block_bytes", [2 * 64, 7 * 64, 2**20])
def test_each_training_image_is_written_as_often_as_asked_with_its_label(digits, tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(policy_artifact, "_BLOCK_BYTES", block_bytes)
    tracker = Recorder()
    written(AugmentSettings(operations=(), materialize=3), digits, tmp_path / "policy", tracker)
    images = np.load(tmp_path / "policy" / "materialized.npy")
    labels = np.load(tmp_path / "policy" / "materialized_labels.npy")
    rows = digits.rows("train")
    np.testing.assert_array_equal(images, np.concatenate([digits.images[rows]] * 3))
    np.testing.assert_array_equal(labels, np.concatenate([digits.labels[rows]] * 3))
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    assert tracker.steps[-1][:3] == (180, 180, "images")
    assert all(before[0] < after[0] for before, after in pairwise(tracker.steps))


def test_copies_differ_and_mixed_images_have_probabilities(digits, tmp_path):
    written(AugmentSettings(operations=(*SHIFT_AND_TURN, Mixup()), materialize=2), digits, tmp_path / "policy")
    images = np.load(tmp_path / "policy" / "materialized.npy")
    labels = np.load(tmp_path / "policy" / "materialized_labels.npy")
    assert (images[:60] != images[60:]).any(axis=(1, 2, 3)).all()
    assert (labels.shape, labels.dtype) == ((120, 10), np.float32)
    np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-5)


def test_an_image_has_a_partner_to_be_mixed_with_however_large_images_are(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(policy_artifact, "_BLOCK_BYTES", 1)
    written(AugmentSettings(operations=(Mixup(alpha=1.0),), materialize=4), digits, tmp_path / "policy")
    labels = np.load(tmp_path / "policy" / "materialized_labels.npy")
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
    assert (labels.max(axis=1) < 0.99).mean() > 0.2


def test_pixels_are_rounded_to_the_nearest():
    values = torch.tensor([100.4, 100.6, -3.0, 300.0]).view(1, 1, 2, 2) / 255
    assert policy_artifact._pixels(values).ravel().tolist() == [100, 101, 0, 255]
