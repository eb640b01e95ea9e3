"""What each figure of an evaluation is given, and the pictures beside them."""

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gapgate.evidence.evaluate import assess
from gapgate.evidence.evaluation_figures import draw
from gapgate.onnx.opened_model import OpenedModel
from gapgate.report import figures
from gapgate.settings.sections import EvaluateSettings
from tests.gapgate.onnx_models import write_linear, write_splits

SETTINGS = EvaluateSettings(num_resamples=1000, worst_errors=7)
NAMES = ["a", "b", "c"]
FIGURES = ("learning_curves", "confusion", "reliability", "worst_errors", "looked_at", "filters", "feature_maps")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """An evaluation of a network that knows nothing, its predictions on test, what each figure was given, and the
    folder."""
    root = tmp_path_factory.mktemp("drawn")
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (90, 8, 8, 1), np.uint8), rng.integers(0, 3, 90, np.int32)
    splits = write_splits(root / "splits", images, labels, NAMES, (20, 20))
    (root / "splits" / "dark").mkdir()
    for sheet in ("contact_sheet.png", "dark/contact_sheet.png", "set_aside.png", "near_duplicates.png"):
        (root / "splits" / sheet).write_bytes(sheet.encode())
    write_linear(root / "model.onnx", rng.normal(size=(64, 3)), np.zeros(3), (8, 8, 1))
    model = OpenedModel.load(root)
    evaluation, found = assess(SETTINGS, splits, model)
    given: dict[str, Any] = {}

    def keep(figure, folder, *args, name="", **more):
        given[name or figure] = (folder, *args, more)
        (folder / "dark").mkdir(exist_ok=True)

    with pytest.MonkeyPatch.context() as patch:
        for figure in FIGURES:
            patch.setattr(figures, figure, partial(keep, figure))
        evaluation["facts"]["num_operations"] = 2
        # An answer that agrees with its label, unsure as it is.
        unsure = evaluation["suspects"]["images"][1]
        unsure["confidence"] = unsure["self_confidence"] / 2
        draw(SETTINGS, copy.deepcopy(evaluation), found["test"], splits, model, root / "figures")
    return evaluation, found["test"], splits, given, root / "figures"


def test_the_worst_errors_are_the_surest_wrong_answers_with_label_and_answer(drawn):
    _, test, splits, given, folder = drawn
    wrong = [at for at in range(50) if test.probabilities[at].argmax() != test.labels[at]]
    worst = sorted(wrong, key=lambda at: -test.probabilities[at].max())[:7]
    place, images, labels, predicted, confidence, names, _ = given["worst_errors"]
    assert (place, names) == (folder, NAMES)
    np.testing.assert_array_equal(images, splits.images[40 + np.array(worst)])
    assert labels.tolist() == [splits.labels[40 + at] for at in worst]
    assert predicted.tolist() == [test.probabilities[at].argmax() for at in worst]
    assert confidence.tolist() == [test.probabilities[at].max() for at in worst]


def test_the_suspects_are_the_first_whose_answer_contradicts_the_label(drawn):
    evaluation, _, splits, given, folder = drawn
    listed = evaluation["suspects"]["images"]
    shown = [one for one in listed if one["confidence"] > one["self_confidence"]][:40]
    assert 20 < len(shown) < len(listed)
    _, images, labels, suggested, confidence, _, _ = given["suspects"]
    np.testing.assert_array_equal(images, splits.images[[one["row"] for one in shown]])
    assert labels.tolist() == [one["label"] for one in shown]
    assert suggested.tolist() == [one["suggested"] for one in shown]
    assert confidence.tolist() == pytest.approx([one["confidence"] for one in shown])
    assert pixels(folder / "suspects") == [splits.images[one["row"], :, :, 0].tolist() for one in shown]


def pixels(folder):
    return [np.asarray(Image.open(path)).tolist() for path in sorted(folder.iterdir())]


def test_the_pictures_of_mistakes_are_those_of_their_rows_in_their_order(drawn):
    evaluation, _, splits, given, folder = drawn
    rows = [one["row"] for one in evaluation["mistakes"]]
    assert len(rows) > 10
    assert pixels(folder / "mistakes") == [splits.images[row, :, :, 0].tolist() for row in rows]
    _, mistakes, _, _ = given["looked_at"]
    assert [one.predicted for one in mistakes] == [one["predicted"] for one in evaluation["looked_at"]]
    # Of each the image, its heat (224 px, so a JPEG file) and five neighbours.
    pictures = sorted(folder.joinpath("looked_at").iterdir())
    assert [path.suffix for path in pictures] == [".png", ".jpg", *[".png"] * 5] * len(mistakes)
    for number, one in enumerate(evaluation["looked_at"]):
        first, _, *nearest = pictures[7 * number : 7 * number + 7]
        assert np.asarray(Image.open(first)).tolist() == splits.images[one["row"], :, :, 0].tolist()
        for path, near in zip(nearest, one["nearest"], strict=True):
            assert np.asarray(Image.open(path)).tolist() == splits.images[near["row"], :, :, 0].tolist()


def test_curves_confusion_and_reliability_are_the_evaluations(drawn):
    evaluation, _, splits, given, folder = drawn
    assert given["learning_curves"] == (
        folder, evaluation["curves"], evaluation["learning_curve"], {"is_augmented": True},
    )  # fmt: skip
    assert given["confusion"][1].tolist() == evaluation["confusion"]
    calibration = evaluation["calibration"]
    assert given["reliability"] == (folder, calibration["bins"], calibration["ece"], {})
    np.testing.assert_array_equal(given["feature_maps"][1], splits.images[40])


def test_the_sheets_of_the_splits_are_kept_for_light_and_dark_pages(drawn):
    *_, folder = drawn
    for sheet in ("contact_sheet.png", "dark/contact_sheet.png", "set_aside.png", "near_duplicates.png"):
        assert (folder / sheet).read_bytes() == sheet.encode()
    assert not (folder / "dark" / "set_aside.png").exists()
