"""Answers for whole splits, and the file that keeps them: each beside its own image."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from gapgate.errors import DataError
from gapgate.evidence.measures import predictions
from gapgate.evidence.measures.predictions import Predictions, predict_all, write_predictions
from gapgate.onnx.classifier import Classifier
from gapgate.tracking import NullTracker
from tests.gapgate.onnx_models import digits, write_linear, write_splits

NAMES = [str(digit) for digit in range(10)]
ROWS = np.random.default_rng(0).permutation(40)  # no file of splits is in this order: a place is not a row


class Heard(NullTracker):
    def __init__(self):
        self.steps = []

    def progress(self, done, total, unit, note=""):
        self.steps.append((done, total, unit, note))


class Counted(Classifier):
    """A classifier that keeps how many images it was given, and how many of them it should take at a time."""

    calls = []  # noqa: RUF012 (of the one test)

    def logits(self, images, batch_size=250):
        self.calls.append((len(images), batch_size))
        return super().logits(images, batch_size)


@pytest.fixture
def splits(tmp_path):
    images, labels = digits()
    groups = [f"writer {row % 7}" if row % 2 else None for row in range(40)]
    return write_splits(tmp_path / "splits", images[:40], labels[:40], NAMES, (20, 10), groups)


@pytest.fixture
def model(tmp_path):
    weights = np.random.default_rng(1).normal(size=(64, 10))
    write_linear(tmp_path / "model.onnx", weights, np.zeros(10), (8, 8, 1))
    return Counted.load(tmp_path / "model.onnx")


def test_every_image_gets_its_own_answer_whatever_the_size_of_chunks_and_batches(splits, model, monkeypatch):
    monkeypatch.setattr(predictions, "CHUNK_BATCHES", 2)
    monkeypatch.setattr(Counted, "calls", [])
    heard, rows = Heard(), {"train": ROWS[:20], "test": ROWS[20:]}
    found = dict(zip(rows, predict_all(model, splits, rows, 3, heard), strict=True))
    assert Counted.calls == [(6, 3), (6, 3), (6, 3), (2, 3)] * 2
    assert heard.steps[3:5] == [(20, 40, "images", "train"), (26, 40, "images", "test")]
    assert heard.steps[-1] == (40, 40, "images", "test")
    groups = splits.groups()
    for name, wanted in rows.items():
        assert found[name].rows.tolist() == wanted.tolist()
        assert found[name].labels.tolist() == splits.labels[wanted].tolist()
        assert found[name].groups.tolist() == groups[wanted].tolist()
        for at, row in enumerate(wanted):
            logits = Classifier.logits(model, splits.images[[row]])[0].astype(np.float64)
            shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            assert found[name].probabilities[at] == pytest.approx(shares, abs=1e-6)
            assert found[name].losses[at] == pytest.approx(-np.log(shares[splits.labels[row]]), rel=1e-4)


def test_a_split_without_images_is_refused(splits, model):
    rows = {"train": ROWS, "test": ROWS[:0]}
    with pytest.raises(DataError, match="the test split has no images"):
        list(predict_all(model, splits, rows, 3, NullTracker()))


def test_each_line_of_the_file_is_of_one_image(splits, tmp_path):
    labels = splits.labels[ROWS]
    probabilities = np.random.default_rng(2).dirichlet(np.ones(10), 40).astype(np.float32)
    sides = {"test": slice(0, 25), "train": slice(25, 40)}
    found = {
        name: Predictions(ROWS[part], labels[part], probabilities[part], np.zeros(40)[part], None)
        for name, part in sides.items()
    }
    write_predictions(tmp_path / "predictions.parquet", found, splits)
    lines = pq.read_table(tmp_path / "predictions.parquet").to_pylist()
    for at, (row, line) in enumerate(zip(ROWS.tolist(), lines, strict=True)):
        answer = int(np.argmax(probabilities[at]))
        assert line == {
            "split": "test" if at < 25 else "train",
            "row": row,
            "id": f"image {row}",
            "content_hash": f"{row:032x}",
            "label": splits.labels[row],
            "predicted": answer,
            "confidence": probabilities[at, answer],
            "correct": answer == splits.labels[row],
            "probabilities": probabilities[at].tolist(),
        }
