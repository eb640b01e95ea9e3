"""Answers of the models of a cross-validation: which of them counts for which image, by hand."""

import json
import math

import numpy as np
import pytest

from gapgate.data.splits import Splits
from gapgate.errors import ArtifactError
from gapgate.evidence.measures.folds import FoldAnswers
from tests.gapgate.onnx_models import write_splits

FOLDS, IN_FOLDS = [0, 1, 2, 0, 1, -1], [0, 1, 2, 3, 4]
LABELS = np.array([0, 1, 0, 1, 1, 0], np.int32)


@pytest.fixture
def splits_of(tmp_path):
    """Splits of six images: rows 0 to 3 are train, 4 is val, and 5 is a copy that is in no fold."""

    def made(groups=None):
        images = np.zeros((6, 2, 2, 1), np.uint8)
        folder = tmp_path / f"splits {len(list(tmp_path.iterdir()))}"
        splits = write_splits(folder, images, LABELS, ["a", "b"], (4, 1), groups)
        np.save(folder / "test.npy", np.array([], np.int64))
        np.save(folder / "folds.npy", np.array(FOLDS, np.int8))
        (folder / "splits.json").write_text(json.dumps({"class_names": ["a", "b"], "num_folds": 3}))
        return Splits.open(splits.path)

    return made


def answers():
    """Logits (3, 5, 2): the model of a fold puts 10 · fold + row before class 1, so each answer tells where it is
    from."""
    margin = 10.0 * np.arange(3)[:, None] + IN_FOLDS
    return FoldAnswers(np.array(IN_FOLDS), np.stack([np.zeros_like(margin), margin], axis=2).astype(np.float32))


def margins(predictions):
    return np.log(predictions.probabilities[:, 1] / predictions.probabilities[:, 0])


def test_an_image_is_held_out_by_the_model_of_its_own_fold(splits_of):
    found = answers().held_out(splits_of())
    assert found.rows.tolist() == IN_FOLDS
    assert found.labels.tolist() == [0, 1, 0, 1, 1]
    # Folds 0, 1, 2, 0, 1 of rows 0 to 4.
    assert margins(found) == pytest.approx([0, 11, 22, 3, 14], rel=1e-2)
    assert found.groups is None
    # The cross-entropy of a margin m is log(1 + exp(−m)) for class 1, and that of −m for class 0.
    expected = [math.log(2), math.log1p(math.exp(-11)), math.log1p(math.exp(22)), math.log1p(math.exp(-3))]
    expected.append(math.log1p(math.exp(-14)))
    assert found.losses == pytest.approx(expected, rel=1e-5)
    # All are right but row 2; a tie is the first class, which row 0 has.
    assert answers().score(splits_of()) == {"loss": pytest.approx(sum(expected) / 5, rel=1e-5), "accuracy": 4 / 5}


def test_the_training_side_has_each_models_answers_for_its_own_training_images(splits_of):
    found = answers().trained_on(splits_of())
    # Of rows 0 to 3, which are train: model 0 has seen 1 and 2, model 1 has seen 0, 2 and 3, model 2 has seen 0, 1, 3.
    assert found.rows.tolist() == [1, 2, 0, 2, 3, 0, 1, 3]
    assert margins(found) == pytest.approx([1, 2, 10, 12, 13, 20, 21, 23], rel=1e-2)
    assert found.labels.tolist() == LABELS[[1, 2, 0, 2, 3, 0, 1, 3]].tolist()
    # The answers for one image are right and wrong together.
    assert found.groups.tolist() == found.rows.tolist()


def test_the_groups_of_the_data_set_are_those_of_the_answers(splits_of):
    splits = splits_of(["x", "y", "x", None, "z", None])  # numbered 0, 1, 0, 2, 3, 4
    assert answers().held_out(splits).groups.tolist() == [0, 1, 0, 2, 3]
    assert answers().trained_on(splits).groups.tolist() == [1, 0, 0, 0, 2, 0, 1, 2]


@pytest.mark.parametrize("change", ["rows", "folds", "classes"])
def test_answers_for_other_images_folds_or_classes_are_refused(splits_of, tmp_path, change):
    splits, made = splits_of(), answers()
    made.write(tmp_path)
    assert np.array_equal(FoldAnswers.read(tmp_path, splits).logits, made.logits)
    rows, logits = made.rows, made.logits
    if change == "rows":  # as many, but not the same ones
        rows = np.array([0, 1, 2, 3, 5])
    if change == "folds":
        logits = logits[:2]
    if change == "classes":
        logits = logits[:, :, [0, 1, 1]]
    FoldAnswers(rows, logits).write(tmp_path)
    with pytest.raises(ArtifactError, match="was made of other images than the splits"):
        FoldAnswers.read(tmp_path, splits)
