"""Answers of a model on whole splits, and the file that keeps them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gapgate.data.splits import SplitName, Splits
from gapgate.errors import DataError
from gapgate.evidence.measures.metrics import cross_entropy
from gapgate.onnx.classifier import Classifier, softmax
from gapgate.tracking import Tracker

CHUNK_BATCHES = 16
"""Number of batches that are copied from the memory map at once; progress is reported after each such chunk."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Answers of the model for the images of one split; n images, K classes."""

    rows: NDArray[np.int64]
    """Rows of `Splits.images`, (n,)."""
    labels: NDArray[np.int32]
    """True classes, (n,)."""
    probabilities: NDArray[np.float32]
    """Probability of each class, (n, K)."""
    losses: NDArray[np.float64]
    """Cross-entropy of each image in nats, (n,)."""
    groups: NDArray[np.int64] | None
    """Number of each image's group, (n,); None if no image has a group."""

    @property
    def predicted(self) -> NDArray[np.int32]:
        """Class of the largest probability of each image, (n,)."""
        classes: NDArray[np.int32] = self.probabilities.argmax(axis=1).astype(np.int32)
        return classes

    @property
    def confidence(self) -> NDArray[np.float32]:
        """Largest probability of each image, (n,)."""
        highest: NDArray[np.float32] = self.probabilities.max(axis=1)
        return highest

    @property
    def correct(self) -> NDArray[np.bool_]:
        """True for each image with the right answer, (n,)."""
        right: NDArray[np.bool_] = self.predicted == self.labels
        return right


def predict_all(
    model: Classifier, splits: Splits, rows: Mapping[SplitName, NDArray[np.int64]], batch_size: int, tracker: Tracker
) -> Iterator[Predictions]:
    """Yield the predictions for each split in turn; memory holds no more than a chunk of images.

    Raises:
        DataError: a split has no images.
    """
    groups = splits.groups()
    done, total = 0, sum(len(r) for r in rows.values())
    for name, split_rows in rows.items():
        if len(split_rows) == 0:
            raise DataError(f"the {name} split has no images; lower the fractions of the others in preprocess")
        labels = np.asarray(splits.labels[split_rows], np.int32)
        logits = np.empty((len(split_rows), model.num_classes), np.float32)
        chunk = CHUNK_BATCHES * batch_size
        for start in range(0, len(split_rows), chunk):
            part = split_rows[start : start + chunk]
            logits[start : start + chunk] = model.logits(splits.images[part], batch_size)
            done += len(part)
            tracker.progress(done, total, "images", name)
        split_groups = None if groups is None else groups[split_rows]
        yield Predictions(split_rows, labels, softmax(logits), cross_entropy(logits, labels), split_groups)


def write_predictions(path: Path, found: Mapping[SplitName, Predictions], splits: Splits) -> None:
    """Write a line for each answer: split, row, id, content_hash, label, predicted, confidence, correct, probabilities
    (float32 list). Of a cross-validation, an image has a line `test` of the model that has not seen it, and a line
    `train` of each that has.

    Labels are indices; the schema's metadata holds the class names.
    """
    index = pq.read_table(splits.path / "index.parquet", columns=["id", "content_hash"])
    tables = [
        pa.table(
            {
                "split": pa.array([name] * len(p.rows), pa.string()),
                "row": p.rows,
                "id": index["id"].take(pa.array(p.rows)),
                "content_hash": index["content_hash"].take(pa.array(p.rows)),
                "label": p.labels.astype(np.int32),
                "predicted": p.predicted,
                "confidence": p.confidence,
                "correct": p.correct,
                # Offsets and flat values are the list column itself; (n, K) as Python lists would be boxed one by one.
                "probabilities": pa.ListArray.from_arrays(
                    np.arange(len(p.rows) + 1, dtype=np.int32) * p.probabilities.shape[1], p.probabilities.ravel()
                ),
            }
        )
        for name, p in found.items()
    ]
    table = pa.concat_tables(tables).replace_schema_metadata({"class_names": json.dumps(splits.class_names)})
    pq.write_table(table, path)
