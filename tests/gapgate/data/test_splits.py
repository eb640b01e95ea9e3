"""Rows, folds and groups of a Splits artifact, by hand."""

import json

import numpy as np
import pytest

from gapgate.data.splits import Splits
from tests.gapgate.onnx_models import write_splits

# Row 6 is in no split. The images are plain, so that the mean of a selection shows which rows it has.
LEVELS = np.array([10, 20, 30, 40, 50, 60, 255, 80])
TRAIN, VAL, FOLDS = [0, 1, 2, 3], [4, 5, 7], [0, 1, 0, 1, 1, 1, -1, 0]


@pytest.fixture
def splits(tmp_path):
    """Eight images of 2 × 2 pixels in two folds; the second channel is the same in all of them."""
    images = np.empty((8, 2, 2, 2), np.uint8)
    images[..., 0], images[..., 1] = LEVELS[:, None, None], 51
    found = write_splits(tmp_path / "splits", images, np.zeros(8, np.int32), ["a", "b"], (4, 4))
    np.save(found.path / "val.npy", np.array(VAL))
    np.save(found.path / "folds.npy", np.array(FOLDS, np.int8))
    (found.path / "splits.json").write_text(
        json.dumps({"class_names": ["a", "b"], "num_folds": 2, "mean": [0.5, 0.5], "std": [0.1, 0.1]})
    )
    return Splits.open(found.path)


@pytest.mark.parametrize(
    ("fold", "train", "val", "test"), [(0, [1, 3], [4, 5], [0, 2, 7]), (1, [0, 2], [7], [1, 3, 4, 5])]
)
def test_a_fold_that_is_held_out_is_the_test_split_and_in_no_other(splits, fold, train, val, test):
    left = splits.hold_out(fold)
    assert [left.rows(name).tolist() for name in ("train", "val", "test")] == [train, val, test]
    assert [splits.rows(name).tolist() for name in ("train", "val", "test")] == [TRAIN, VAL, []]


def test_images_are_normalised_by_what_is_left_to_train_on_and_a_constant_channel_has_std_1(splits):
    left = splits.hold_out(0)
    # Rows 1 and 3, of the levels 20 and 40: mean 30, standard deviation 10.
    assert left.info["mean"] == pytest.approx([30 / 255, 51 / 255])
    assert left.info["std"] == pytest.approx([10 / 255, 1.0])
    assert splits.info["mean"] == [0.5, 0.5]


def test_training_without_val_images_looks_at_its_own(splits):
    np.save(splits.path / "val.npy", np.array([4, 5]))  # all in fold 1
    left = splits.hold_out(1)
    assert left.rows("val").tolist() == left.rows("train").tolist() == [0, 2]
    assert splits.hold_out(0).rows("val").tolist() == [4, 5]


def test_the_rows_in_folds_are_those_of_train_and_val(splits):
    assert splits.in_folds().tolist() == [0, 1, 2, 3, 4, 5, 7]
    assert splits.folds().tolist() == FOLDS


def test_images_of_a_group_share_a_number_and_the_others_have_one_each(tmp_path):
    def numbers(groups):
        images = np.zeros((len(groups), 2, 2, 1), np.uint8)
        folder = tmp_path / "-".join(map(str, groups))
        return write_splits(folder, images, np.zeros(len(groups), np.int32), ["a", "b"], (1, 1), groups).groups()

    assert numbers(["x", None, "y", "x", None, ""]).tolist() == [0, 1, 2, 0, 3, 4]
    assert numbers([None, "", None]) is None
