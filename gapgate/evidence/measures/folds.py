"""Answers of the models of a cross-validation: one model for each fold, trained on the images outside of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from gapgate.data.splits import Splits
from gapgate.errors import ArtifactError
from gapgate.evidence.measures.metrics import cross_entropy
from gapgate.evidence.measures.predictions import Predictions
from gapgate.onnx.classifier import softmax

FILE = "folds.safetensors"
"""File of a Model artifact: `rows` (n,) int64 and `logits` (num_folds, n, K) float32."""


@dataclass(frozen=True, slots=True)
class FoldAnswers:
    """Logits of each fold's model for all images that are in a fold, n of them, with K classes."""

    rows: NDArray[np.int64]
    """Rows of `Splits.images`, (n,)."""
    logits: NDArray[np.float32]
    """(num_folds, n, K)"""

    @classmethod
    def read(cls, folder: Path, splits: Splits) -> FoldAnswers:
        """Read the file in a Model's `folder`.

        Raises:
            ArtifactError: it is missing, or of other splits.
        """
        path = folder / FILE
        try:
            stored = load_file(path)
            found = cls(stored["rows"], stored["logits"])
        except (OSError, SafetensorError, KeyError) as error:
            raise ArtifactError(f"{path} cannot be read ({error}); run train again") from None
        shape = (splits.num_folds, len(splits.in_folds()), len(splits.class_names))
        if found.logits.shape != shape or not np.array_equal(found.rows, splits.in_folds()):
            raise ArtifactError(f"{path} was made of other images than the splits; run train again")
        return found

    def write(self, folder: Path) -> None:
        """Write the file into `folder`; equal answers give equal bytes."""
        (folder / FILE).write_bytes(save({"rows": self.rows, "logits": self.logits}))

    def held_out(self, splits: Splits) -> Predictions:
        """The answer for each image of the one model that has not seen it."""
        folds = splits.folds()[self.rows]
        return _predictions(splits, self.rows, self.logits[folds, np.arange(len(self.rows))], splits.groups())

    def trained_on(self, splits: Splits) -> Predictions:
        """The answers of each model for its own training images: n × (num_folds − 1), less the images of val.

        The answers for one image are a group, as they are right and wrong together.
        """
        in_train = np.isin(self.rows, splits.rows("train"))
        folds = splits.folds()[self.rows]
        parts = [np.flatnonzero(in_train & (folds != fold)) for fold in range(splits.num_folds)]
        logits = np.concatenate([self.logits[fold, part] for fold, part in enumerate(parts)])
        groups = splits.groups()
        own = np.arange(len(splits.labels)) if groups is None else groups
        return _predictions(splits, self.rows[np.concatenate(parts)], logits, own)

    def score(self, splits: Splits) -> dict[str, float]:
        """Mean cross-entropy and accuracy of the held-out answers."""
        found = self.held_out(splits)
        return {"loss": float(found.losses.mean()), "accuracy": float(found.correct.mean())}


def _predictions(
    splits: Splits, rows: NDArray[np.int64], logits: NDArray[np.float32], groups: NDArray[np.int64] | None
) -> Predictions:
    labels = np.asarray(splits.labels[rows], np.int32)
    return Predictions(
        rows, labels, softmax(logits), cross_entropy(logits, labels), None if groups is None else groups[rows]
    )
