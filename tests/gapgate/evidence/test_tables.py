"""Tables of an evaluation, from figures that are known."""

import csv
import json

import numpy as np
import pytest

from gapgate.artifacts import read_json
from gapgate.evidence import tables
from gapgate.evidence.measures.predictions import Predictions
from tests.gapgate.onnx_models import write_splits

ROWS = np.array([7, 5, 6, 4])  # a place is not a row


@pytest.fixture
def written(tmp_path):
    labels = np.array([0, 0, 0, 0, 1, 0, 1, 0], np.int32)
    splits = write_splits(tmp_path / "splits", np.zeros((8, 8, 8, 1), np.uint8), labels, ["ant", "bee"], (2, 2))
    # Of rows 7, 5, 6 and 4 the last alone is right; row 6 is the surest mistake.
    shares = np.array([[0.4, 0.6], [0.25, 0.75], [0.875, 0.125], [0.1, 0.9]], np.float32)
    test = Predictions(ROWS, labels[ROWS], shares, np.zeros(4), None)
    classes = [
        {
            "name": name, "support": 2 + at, "recall": 0.1 + at, "precision": 0.2 + at, "f1": 0.3 + at,
            "gap_points": 4.0 + at, "gap_low": 3.0 + at, "gap_high": 5.0 + at,
        }
        for at, name in enumerate(("ant", "bee"))
    ]  # fmt: skip
    suspects = [
        {
            "id": "image 6", "label": 1, "suggested": 0, "self_confidence": 0.125, "confidence": 0.875,
            "is_suspect": True,
        },
        {
            "id": "image 7", "label": 0, "suggested": 1, "self_confidence": 0.4, "confidence": 0.6,
            "is_suspect": False,
        },
    ]  # fmt: skip
    (tmp_path / "evaluation").mkdir()
    evaluation = {"classes": classes, "suspects": {"images": suspects}}
    tables.write_tables(tmp_path / "evaluation", evaluation, test, splits)
    return tmp_path / "evaluation"


def rows(written, name):
    found = read_json(written / "tables" / f"{name}.json")
    return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]


def test_each_figure_of_a_class_is_in_the_column_of_its_name(written):
    assert rows(written, "classes") == [
        {
            "class": "ant", "test images": 2, "recall": 0.1, "precision": 0.2, "f1": 0.3, "gap, points": 4.0,
            "gap, low": 3.0, "gap, high": 5.0,
        },
        {
            "class": "bee", "test images": 3, "recall": 1.1, "precision": 1.2, "f1": 1.3, "gap, points": 5.0,
            "gap, low": 4.0, "gap, high": 6.0,
        },
    ]  # fmt: skip
    assert json.loads((written / "classes.json").read_text()) == {
        "recall": {"ant": 0.1, "bee": 1.1},
        "gap_points": {"ant": 4.0, "bee": 5.0},
    }


def test_errors_and_suspects_have_the_id_of_their_image_what_it_is_and_what_was_said(written):
    assert rows(written, "worst_errors") == [
        {"image": "image 6", "label": "bee", "said": "ant", "confidence": 0.875},
        {"image": "image 5", "label": "ant", "said": "bee", "confidence": 0.75},
        {"image": "image 7", "label": "ant", "said": "bee", "confidence": 0.6},
    ]
    assert [list(row.values()) for row in rows(written, "suspects")] == [
        ["image 6", "bee", "ant", 0.125, True],
        ["image 7", "ant", "bee", 0.4, False],
    ]


def test_the_answers_are_beside_their_labels(written):
    with (written / "answers.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["label", "answer"], ["ant", "bee"], ["ant", "bee"], ["bee", "ant"], ["bee", "bee"],
        ]  # fmt: skip
