"""Labels in doubt: swapped ones are found, and their order and names."""

import csv

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from gapgate.evidence.measures import suspects


def test_swapped_labels_come_first():
    pixels, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    swapped = rng.choice(len(labels), len(labels) // 20, replace=False)
    given = labels.copy()
    given[swapped] = (given[swapped] + rng.integers(1, 10, len(swapped))) % 10
    model = LogisticRegression(max_iter=200)
    found = suspects.rank(given, cross_val_predict(model, pixels / 16, given, cv=3, method="predict_proba"))
    first = found.order[: len(labels) // 10]
    assert np.isin(swapped, first).mean() >= 0.9
    right = found.suggested == labels[found.order]
    assert right[np.isin(found.order, swapped)].mean() >= 0.9


def test_another_class_above_its_own_mean_makes_a_suspect():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]])
    found = suspects.rank(labels, probabilities)
    assert found.order.tolist() == [1, 3, 2, 0]
    assert found.is_suspect.tolist() == [True, False, False, False]
    assert found.suggested[0] == 1
    assert found.confidence[0] == 0.8
    assert found.self_confidence[0] == 0.2


def answers(rng, count, num_classes, confidence):
    """Labels and probabilities of models that are right, with confidences drawn uniformly between two values."""
    labels = rng.integers(0, num_classes, count)
    top = rng.uniform(*confidence, count)
    probabilities = np.repeat((1 - top)[:, None] / (num_classes - 1), num_classes, axis=1)
    probabilities[np.arange(count), labels] = top
    return labels, probabilities


def test_wrong_labels_are_counted_and_mistakes_about_hard_images_are_not():
    rng = np.random.default_rng(0)
    labels, probabilities = answers(rng, 2000, 5, (0.7, 1.0))
    assert suspects.estimate_wrong(labels, probabilities) == 0
    given = labels.copy()
    swapped = rng.choice(2000, 400, replace=False)
    given[swapped] = (given[swapped] + rng.integers(1, 5, 400)) % 5
    assert 300 <= suspects.estimate_wrong(given, probabilities) <= 400
    hard = labels.copy()
    least_sure = np.argsort(probabilities.max(1))[:400]
    hard[least_sure] = (hard[least_sure] + rng.integers(1, 5, 400)) % 5
    assert suspects.estimate_wrong(hard, probabilities) == 0


def test_a_model_that_knows_little_contradicts_no_label():
    rng = np.random.default_rng(0)
    labels, probabilities = answers(rng, 2000, 10, (0.12, 0.25))
    assert suspects.estimate_wrong(rng.permutation(labels), probabilities) == 0


def test_two_classes_that_look_alike_are_not_wrong_labels():
    rng = np.random.default_rng(0)
    labels, probabilities = answers(rng, 2000, 5, (0.7, 1.0))
    given = np.where((labels == 1) & (rng.random(2000) < 0.5), 0, labels)
    assert suspects.estimate_wrong(given, probabilities) == 0


def test_the_table_names_image_and_classes(tmp_path):
    found = suspects.rank(np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]))
    listed = suspects.rows_of(found, np.array([5, 7, 6]), [f"image {n}" for n in range(8)], np.array([0, 0, 1]))
    suspects.write_csv(tmp_path / "suspects.csv", listed, ["cat", "dog"])
    with (tmp_path / "suspects.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    columns = ("rank", "id", "label", "suggested", "self_confidence", "is_suspect")
    expected = [
        ("1", "image 7", "cat", "dog", "0.2", "true"),
        ("2", "image 6", "dog", "cat", "0.7", "false"),
        ("3", "image 5", "cat", "dog", "0.9", "false"),
    ]
    assert [tuple(line[column] for column in columns) for line in lines] == expected


def test_beyond_the_first_hundred_only_labels_that_an_answer_contradicts_are_listed():
    rng = np.random.default_rng(0)
    labels, probabilities = answers(rng, 400, 2, (0.7, 1.0))
    found = suspects.rank(1 - labels, probabilities)
    assert len(suspects.rows_of(found, np.arange(400), ["x"] * 400, 1 - labels, 1000)) == 400
    found = suspects.rank(labels, probabilities)
    assert len(suspects.rows_of(found, np.arange(400), ["x"] * 400, labels, 1000)) == suspects.LEAST_LISTED
