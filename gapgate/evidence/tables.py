"""Tables of an evaluation for trackers: classes, worst errors, labels in doubt, and the answers to test images.

tables/*.json       columns and a row for each entry, in the form of MLflow's tables
classes.json        recall and gap of each class, for `dvc metrics`
answers.csv         label and answer of each test image, for the confusion matrix of `dvc plots`
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from gapgate.artifacts import write_json
from gapgate.data.splits import Splits
from gapgate.evidence.measures.mistakes import confident_mistakes
from gapgate.evidence.measures.predictions import Predictions

FOLDER = "tables"
NAMES = ("classes", "worst_errors", "suspects")
MAX_ERRORS = 1000
"""Largest number of rows in the table of errors; `predictions.parquet` has all answers."""

_COLUMNS = ("name", "support", "recall", "precision", "f1", "gap_points", "gap_low", "gap_high")


def write_tables(folder: Path, evaluation: Mapping[str, Any], test: Predictions, splits: Splits) -> None:
    """Write the files into the folder of an evaluation."""
    names = splits.class_names
    (folder / FOLDER).mkdir()
    rows = evaluation["classes"]
    _write(
        folder / FOLDER / "classes.json",
        ["class", "test images", "recall", "precision", "f1", "gap, points", "gap, low", "gap, high"],
        [[row[key] for key in _COLUMNS] for row in rows],
    )
    worst = confident_mistakes(test, MAX_ERRORS)
    ids = pq.read_table(splits.path / "index.parquet", columns=["id"])["id"].take(test.rows[worst]).to_pylist()
    _write(
        folder / FOLDER / "worst_errors.json",
        ["image", "label", "said", "confidence"],
        [
            [image, names[label], names[said], round(float(sure), 6)]
            for image, label, said, sure in zip(
                ids, test.labels[worst], test.predicted[worst], test.confidence[worst], strict=True
            )
        ],
    )
    _write(
        folder / FOLDER / "suspects.json",
        ["image", "label", "suggested", "probability of the label", "in doubt"],
        [
            [one["id"], names[one["label"]], names[one["suggested"]], one["self_confidence"], bool(one["is_suspect"])]
            for one in evaluation["suspects"]["images"]
        ],
    )
    figures = ("recall", "gap_points")
    write_json(folder / "classes.json", {key: {row["name"]: row[key] for row in rows} for key in figures})
    with (folder / "answers.csv").open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["label", "answer"])
        named = np.asarray(names, object)
        lines.writerows(zip(named[test.labels], named[test.predicted], strict=True))


def _write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    write_json(path, {"columns": list(columns), "data": [list(row) for row in rows]})
