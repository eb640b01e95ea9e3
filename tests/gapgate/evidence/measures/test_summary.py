"""Figures that follow from predictions, worked by hand."""

import numpy as np
import pytest
from scipy.stats import beta

from gapgate.data.splits import SplitName
from gapgate.evidence.measures.predictions import Predictions
from gapgate.evidence.measures.summary import measure
from gapgate.settings.sections import EvaluateSettings

FAST = EvaluateSettings(num_resamples=1000)


def answers(labels: list[int], predicted: list[int], confidence: float = 0.9) -> Predictions:
    """What a model of two classes said; its loss is the image's number."""
    probabilities = np.full((len(labels), 2), 1 - confidence, np.float32)
    probabilities[np.arange(len(labels)), predicted] = confidence
    rows, losses = np.arange(len(labels)), np.arange(len(labels), dtype=np.float64)
    return Predictions(rows, np.array(labels, np.int32), probabilities, losses, None)


def test_every_figure_is_that_of_its_own_split_worked_by_hand() -> None:
    found = {
        "train": answers([0] * 4 + [1] * 4, [0] * 4 + [1] * 3 + [0]),  # 7 of 8: classes 4/4 and 3/4
        "val": answers([0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 0, 0]),  # 3 of 6
        "test": answers([0, 0, 0, 0, 1], [0, 1, 1, 1, 1]),  # 2 of 5: classes 1/4 and 1/1
    }
    figures = measure(EvaluateSettings(num_resamples=50_000, confidence_level=0.9), found, ["cat", "dog"])
    values = {name: (a["value"], a["num_images"], a["num_groups"]) for name, a in figures["accuracy"].items()}
    assert values == {"train": (0.875, 8, None), "val": (0.5, 6, None), "test": (0.4, 5, None)}
    for name, (right, wrong) in {"train": (7, 1), "val": (3, 3), "test": (2, 3)}.items():
        low, high = beta.ppf([0.05, 0.95], right + 0.5, wrong + 0.5)
        interval = figures["accuracy"][name]
        assert (interval["low"], interval["high"]) == pytest.approx((low, high), abs=0.01)
    assert figures["loss"] == {"train": 3.5, "val": 2.5, "test": 2.0}
    assert figures["gap"]["confidence_level"] == 0.9
    assert figures["gap"]["points"] == pytest.approx(47.5)
    assert figures["gap"]["vs_val"]["points"] == pytest.approx(37.5)
    rng = np.random.default_rng(1)
    draws = {
        n: rng.beta(r + 0.5, w + 0.5, 50_000) for n, (r, w) in {"train": (7, 1), "val": (3, 3), "test": (2, 3)}.items()
    }
    for other, interval in (("test", figures["gap"]), ("val", figures["gap"]["vs_val"])):
        expected = np.quantile((draws["train"] - draws[other]) * 100, [0.05, 0.95])
        assert (interval["low"], interval["high"]) == pytest.approx(tuple(expected), abs=1.5)
    assert [(one["name"], one["points"]) for one in figures["gap"]["per_class"]] == [("cat", 75.0), ("dog", -25.0)]
    assert [(one["recall"], one["support"], one["gap_points"]) for one in figures["classes"]] == [
        (0.25, 4, 75.0),
        (1.0, 1, -25.0),
    ]
    for one, per_class in zip(figures["classes"], figures["gap"]["per_class"], strict=True):
        assert (one["gap_low"], one["gap_high"]) == (per_class["low"], per_class["high"])
        assert one["gap_low"] < one["gap_points"] < one["gap_high"]
    assert figures["confusion"] == [[1, 3], [0, 1]]
    assert figures["calibration"]["ece"] == pytest.approx(0.9 - 0.4, abs=1e-6)
    assert figures["calibration"]["split"] == "test"
    assert len(figures["calibration"]["bins"]) == 15


def test_a_class_that_a_side_has_no_image_of_has_no_gap() -> None:
    sides = answers([0, 0, 1], [0, 0, 1]), answers([0, 0], [0, 1])
    for train, test in (sides, sides[::-1]):
        found = {"train": train, "val": train, "test": test}
        per_class = measure(FAST, found, ["cat", "dog"])["gap"]["per_class"]
        assert per_class[0]["points"] == (50 if test is sides[1] else -50)
        assert per_class[1] == {"name": "dog", "points": None, "low": None, "high": None}


def in_folds(times: int = 1, groups: bool = False) -> dict[SplitName, Predictions]:
    """Six images, each `times` times over, of which 12 was trained on once, 15 never, and the others twice."""
    test = answers([0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 0, 1])
    train = answers([0, 0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 0, 1, 1, 1, 0])
    sides = {"train": (train, [10, 10, 11, 11, 12, 13, 13, 14, 14]), "test": (test, [10, 11, 12, 13, 14, 15])}
    found: dict[SplitName, Predictions] = {"val": answers([0, 1], [0, 0])}
    for name, (side, rows) in sides.items():
        found[name] = Predictions(
            np.concatenate([np.array(rows) + 10 * n for n in range(times)]),
            np.tile(side.labels, times),
            np.tile(side.probabilities, (times, 1)),
            np.tile(side.losses, times),
            np.tile(rows, times) if groups else None,
        )
    return found


def test_the_gap_of_folds_compares_each_image_with_the_share_of_the_models_that_saw_it() -> None:
    figures = measure(EvaluateSettings(num_resamples=50_000), in_folds(), ["cat", "dog"], num_folds=3)
    # Trained on: 1, ½, 1, 1, ½ right; held out: 1, 0, 1, 1, 0. Image 15 has no pair.
    assert figures["gap"]["points"] == pytest.approx(20)
    per_class = [(one["name"], one["points"]) for one in figures["gap"]["per_class"]]
    assert per_class == [("cat", pytest.approx(100 / 6)), ("dog", pytest.approx(25))]
    for name, (right, wrong, factor) in {"train": (7, 2, 1.2), "val": (1, 1, 1.0), "test": (4, 2, 1.2)}.items():
        value = right / (right + wrong)
        ends = value + factor * (beta.ppf([0.025, 0.975], right + 0.5, wrong + 0.5) - value)
        interval = figures["accuracy"][name]
        assert (interval["low"], interval["high"]) == pytest.approx(tuple(ends.clip(0, 1)), abs=0.01)
    assert [figures["accuracy"][name]["num_images"] for name in ("train", "test")] == [5, 6]


def test_a_class_that_no_fold_was_trained_on_has_no_gap() -> None:
    found = in_folds()
    train = found["train"]  # whose first five are of the first class
    found["train"] = Predictions(train.rows[:5], train.labels[:5], train.probabilities[:5], train.losses[:5], None)
    figures = measure(FAST, found, ["cat", "dog"], num_folds=3)
    assert [one["points"] for one in figures["gap"]["per_class"]] == [pytest.approx(100 / 6), None]


def test_the_gap_of_folds_is_drawn_by_groups() -> None:
    settings = EvaluateSettings(num_resamples=50_000)
    alone, grouped, copies = (
        measure(settings, found, ["cat", "dog"], num_folds=3)["gap"]
        for found in (in_folds(), in_folds(times=4, groups=True), in_folds(times=4))
    )
    assert (grouped["low"], grouped["high"]) == pytest.approx((alone["low"], alone["high"]), abs=1.5)
    assert copies["high"] - copies["low"] < 0.7 * (alone["high"] - alone["low"])
