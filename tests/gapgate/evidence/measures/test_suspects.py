"""Labels in doubt: swapped ones are found, and their order and names."""

import csv

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from gapgate.evidence.measures import suspects
from gapgate.evidence.measures.predictions import Predictions
from tests.gapgate.onnx_models import write_splits


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


def test_a_class_at_its_own_mean_counts_and_the_likeliest_class_does_not_where_it_is_below_its():
    labels = np.array([0, 0, 1, 1, 2])
    probabilities = np.array(
        [[0.98, 0.01, 0.01], [0.5, 0.4, 0.1], [0.3, 0.4, 0.3], [0.2, 0.4, 0.4], [0.02, 0.03, 0.95]]
    )
    # Means of the classes among their own images: 0.74, 0.4 and 0.95. The second image is likeliest of class 0, but far
    # below what that class has; of class 1 it has just its mean.
    assert suspects.rank(labels, probabilities).order.tolist() == [2, 3, 1, 4, 0]
    assert suspects.rank(labels, probabilities).is_suspect.tolist() == [False, False, True, False, False]


def test_a_class_without_images_is_nobodys_true_class():
    found = suspects.rank(np.array([0, 1]), np.array([[0.3, 0.2, 0.5], [0.1, 0.2, 0.7]]))
    assert not found.is_suspect.any()
    assert found.suggested.tolist() == [2, 2]


def sure_of(pairs, num_classes):
    """Labels and probabilities of answers: (label, answer, confidence), and the rest of 1 spread over the others."""
    labels = np.array([label for label, _, _ in pairs])
    probabilities = np.array(
        [
            [sure if one == answer else (1 - sure) / (num_classes - 1) for one in range(num_classes)]
            for _, answer, sure in pairs
        ]
    )
    return labels, probabilities


RIGHT = [(0, 0, sure) for sure in (0.75, 0.8, 0.85, 0.9, 0.95)]


def test_of_two_classes_the_lower_of_both_estimates_is_taken_less_a_standard_error():
    # Right answers have a median of 0.85 and an upper quartile of 0.9. Of the wrong ones 16 and 10 are above, so the
    # estimates are (16 − 4) / 0.5 = 24 and (10 − √10) / 0.25 = 27.4.
    wrong = [(0, 1, 0.99)] * 10 + [(1, 0, 0.87)] * 6 + [(1, 0, 0.7)] * 9
    assert suspects.estimate_wrong(*sure_of(RIGHT + wrong, 2)) == 24
    # No more than there are: (16 − 4) / 0.5 again, of 17.
    assert suspects.estimate_wrong(*sure_of(RIGHT + wrong[:17], 2)) == 17
    assert suspects.estimate_wrong(*sure_of(wrong, 2)) == 0  # nothing to compare with


def test_the_pair_of_most_answers_counts_as_the_others_on_average():
    # 9 between the first two classes in both orders, 3 and 4 between the others: (16 − 9) · 3 / 2 = 10.5, and
    # (10.5 − √10.5) / 0.5 = 14.5; 29 at the quartile.
    wrong = [(0, 1, 0.99)] * 5 + [(1, 0, 0.99)] * 4 + [(2, 0, 0.99)] * 3 + [(1, 2, 0.99)] * 4
    assert suspects.estimate_wrong(*sure_of(RIGHT + wrong, 3)) == 15


def test_suspects_and_labels_that_the_answer_contradicts_are_listed_beyond_the_first():
    # After as many as are listed in any case: neither, a suspect alone, and a contradiction alone.
    count = suspects.LEAST_LISTED + 3
    confidence, own = np.full(count, 0.25), np.full(count, 0.75)
    confidence[-1], own[-1] = 0.5, 0.375
    found = suspects.Suspects(
        np.arange(count)[::-1], np.ones(count, int), confidence, own, np.arange(count) == count - 2
    )
    rows, ids = np.arange(count) + 7, [f"image {row}" for row in range(count + 7)]
    listed = suspects.rows_of(found, rows, ids, np.zeros(count, int))
    assert len(listed) == suspects.LEAST_LISTED + 2
    assert [one["is_suspect"] for one in listed[-3:]] == [False, True, False]
    assert listed[-1] == {
        "row": 7, "id": "image 7", "label": 0, "suggested": 1, "confidence": 0.5, "self_confidence": 0.375,
        "is_suspect": False,
    }  # fmt: skip
    assert suspects.rows_of(found, rows, ids, np.zeros(count, int), 5) == listed[:5]


def test_answers_of_several_splits_are_ranked_together_by_the_rows_of_their_images(tmp_path):
    splits = write_splits(
        tmp_path / "splits", np.zeros((9, 2, 2, 1), np.uint8), np.zeros(9, np.int32), ["a", "b"], (3, 3)
    )
    sides = []
    for rows, shares in (([4, 3], [0.9, 0.2]), ([8, 6, 7], [0.6, 0.1, 0.7])):
        first = np.array(shares, np.float32)
        probabilities = np.stack([first, 1 - first], axis=1)
        sides.append(Predictions(np.array(rows), np.zeros(len(rows), np.int32), probabilities, None, None))
    found = suspects.find(sides, splits)
    assert found["num_images"] == 5
    assert [(one["row"], one["id"], one["self_confidence"]) for one in found["images"]] == [
        (6, "image 6", 0.1), (3, "image 3", 0.2), (8, "image 8", 0.6), (7, "image 7", 0.7), (4, "image 4", 0.9),
    ]  # fmt: skip
    assert found["num_suspects"] == sum(one["is_suspect"] for one in found["images"])
