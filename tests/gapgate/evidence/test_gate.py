import copy
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import beta

from gapgate.evidence.gate import Certificate, Check, judge
from gapgate.evidence.measures import gap
from gapgate.settings.sections import GateSettings

LIMITS = GateSettings()


def evaluation_of(train: float, num_train: int, test: float, num_test: int) -> dict[str, Any]:
    """The figures of a model with these accuracies, measured as evaluate does; everything else is good."""
    rng = np.random.default_rng(0)
    train_side, test_side = (
        gap.measure(np.arange(size) < round(accuracy * size), rng)
        for accuracy, size in ((train, num_train), (test, num_test))
    )
    found = gap.gap(train_side, test_side)
    accuracies = {"train": train_side.interval(), "test": test_side.interval()}
    return {
        "accuracy": {
            name: {"value": a.value, "low": a.low, "high": a.high, "num_images": size}
            for (name, a), size in zip(accuracies.items(), (num_train, num_test), strict=True)
        },
        "gap": {"points": found.value, "low": found.low, "high": found.high, "confidence_level": 0.95},
        "classes": [{"name": "cat", "recall": 0.9, "support": 40}, {"name": "dog", "recall": 0.8, "support": 50}],
        "calibration": {"ece": 0.02},
        "parity": {"max_abs_difference": 2e-6, "logit_scale": 1.0, "num_images": 256},
        "leaks": {
            "share": 0.01,
            "label_conflicts": 1,
            "copies": 0,
            "near_duplicates": 2,
            "groups": 0,
            "num_images": 300,
        },
        "loss": {"test": 0.3},
    }


GOOD = evaluation_of(0.999, 1200, 0.987, 450)


def changed(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """The good evaluation with one figure replaced."""
    evaluation = copy.deepcopy(GOOD)
    node: Any = evaluation
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return evaluation


def check_of(certificate: Certificate, name: str) -> Check:
    return next(check for check in certificate.checks if check.name == name)


def reasons(certificate: Certificate) -> tuple[str, ...]:
    """Why it did not pass; empty where it did."""
    return tuple(check.reason for check in certificate.checks if check.verdict != "pass")


JUDGED = [
    ("accuracy", "test", "value"),
    ("accuracy", "test", "low"),
    ("accuracy", "test", "high"),
    ("accuracy", "test", "num_images"),
    ("gap", "points"),
    ("gap", "low"),
    ("gap", "high"),
    ("gap", "confidence_level"),
    ("accuracy", "train", "value"),
    ("accuracy", "train", "low"),
    ("accuracy", "train", "high"),
    ("classes", 1, "recall"),
    ("calibration", "ece"),
    ("parity", "max_abs_difference"),
    ("parity", "logit_scale"),
    ("parity", "num_images"),
    ("leaks", "share"),
    ("leaks", "near_duplicates"),
    ("leaks", "label_conflicts"),
]
SECTIONS = [("accuracy",), ("accuracy", "test"), ("gap",), ("classes",), ("calibration",), ("parity",), ("leaks",)]


def test_the_fashion_mnist_tutorial_cnn_fails_on_its_gap() -> None:
    certificate = judge(LIMITS, evaluation_of(0.956, 20_000, 0.916, 10_000))
    assert certificate.verdict == "fail"
    assert reasons(certificate) == ("gap 4.0 points (3.4 to 4.6) is wholly above the limit 3.0",)


@pytest.mark.parametrize("figures", [(0.935, 20_000, 0.923, 10_000), (0.999, 1200, 0.987, 450)])
def test_fashion_mnist_with_flips_and_shifts_and_digits_pass(figures: tuple[float, int, float, int]) -> None:
    certificate = judge(LIMITS, evaluation_of(*figures))
    assert certificate.verdict == "pass"
    assert reasons(certificate) == ()
    assert [check.name for check in certificate.checks] == [
        "max_gap_points",
        "min_test_accuracy",
        "min_class_recall",
        "max_ece",
        "max_parity",
        "max_leaked_share",
    ]


def test_a_perfect_score_on_ten_images_is_undecided_with_the_number_that_would_decide() -> None:
    certificate = judge(LIMITS, evaluation_of(1.0, 1200, 1.0, 10))
    check = check_of(certificate, "max_gap_points")
    assert certificate.verdict == check.verdict == "undecided"
    assert check.images_to_decide is not None
    assert check.images_to_decide == 122  # 0.97 ** 122 is 2.4 %
    assert "about 110 more photos would decide, most of them of 'dog'" in check.reason
    assert judge(LIMITS, evaluation_of(1.0, 1200, 1.0, round(check.images_to_decide * 1.15))).verdict == "pass"


def test_a_gap_on_the_limit_itself_is_decided_by_no_number_of_photos() -> None:
    check = check_of(judge(LIMITS, evaluation_of(0.99, 100, 0.96, 400)), "max_gap_points")
    assert check.verdict == "undecided"
    assert check.images_to_decide is None
    assert "no number of photos would decide" in check.reason


def test_where_train_alone_is_wide_the_photos_that_are_missing_are_of_train_too() -> None:
    check = check_of(judge(LIMITS, evaluation_of(0.97, 100, 0.95, 4000)), "max_gap_points")
    assert check.verdict == "undecided"
    # The upper half of the interval, with all photos in the same shares, comes down to the distance of one point.
    assert check.images_to_decide == math.ceil(4000 * (check.high - check.value) ** 2)


def test_a_cross_validation_is_told_the_photos_that_narrow_its_gap() -> None:
    evaluation = changed(("gap",), {"points": 1.0, "low": -0.5, "high": 5.0, "confidence_level": 0.95})
    evaluation |= {"method": {"name": "cross_validation", "num_folds": 5, "words": "by folds"}}
    evaluation["facts"] = {"num_images": {"train": 400, "val": 50, "test": 0}}
    certificate = judge(LIMITS, evaluation)
    check = check_of(certificate, "max_gap_points")
    # The half width of 4 points has to become 2: four times the 450 photos.
    assert check.images_to_decide == 1800
    assert "about 1,400 more photos would decide" in check.reason  # 1,350 to two digits, half to even
    assert certificate.evidence == "by folds"


def test_of_a_holdout_all_photos_are_counted_not_those_of_test_alone() -> None:
    evaluation = evaluation_of(1.0, 1200, 1.0, 10) | {"facts": {"num_images": {"train": 25, "val": 5, "test": 10}}}
    check = check_of(judge(LIMITS, evaluation), "max_gap_points")
    more = 4 * (check.images_to_decide - 10)
    assert f"about {round(more, 2 - len(str(more)))} more photos would decide" in check.reason


@pytest.mark.parametrize(
    ("counts", "share"),
    [
        ({"train": 0, "val": 1, "test": 8}, 8 / 9),
        ({"train": 8, "val": 0, "test": 1}, 1 / 9),
        ({"train": 4, "val": None, "test": 1}, 1 / 5),
        ({"train": 2, "val": 1}, 1),
        ({"train": 2, "val": 1, "test": 0}, 1),
        ({"train": 2, "val": 1, "test": None}, 1),
        (None, 1),
    ],
)
def test_the_photos_that_are_missing_are_counted_by_the_share_of_test(counts: Any, share: float) -> None:
    evaluation = evaluation_of(1.0, 1200, 1.0, 40) | {"facts": {"num_images": counts}}
    check = check_of(judge(LIMITS, evaluation), "max_gap_points")
    assert check.images_to_decide is not None
    more = math.ceil((check.images_to_decide - 40) / share)
    assert f"about {round(more, 2 - len(str(more)))} more photos would decide" in check.reason


def test_most_of_the_missing_photos_are_of_the_class_with_the_most_wrong_answers() -> None:
    evaluation = evaluation_of(1.0, 1200, 1.0, 10)
    rows = (("ape", 0.9, 60), ("bee", 0.5, 20), ("cow", 0.0, 5))  # 6, 10 and 5 wrong
    evaluation["classes"] = [{"name": name, "recall": recall, "support": n} for name, recall, n in rows]
    assert "most of them of 'bee'" in check_of(judge(LIMITS, evaluation), "max_gap_points").reason
    for entry in evaluation["classes"]:
        entry["recall"] = 1.0
    assert check_of(judge(LIMITS, evaluation), "max_gap_points").reason.endswith("more photos would decide")


def test_a_gap_without_any_width_at_its_limit_is_kept() -> None:
    evaluation = changed(("gap",), {"points": 3.0, "low": 3.0, "high": 3.0, "confidence_level": 0.95})
    assert check_of(judge(LIMITS, evaluation), "max_gap_points").verdict == "pass"


@pytest.mark.parametrize(("share", "expected"), [(1 - 4e-10, 10**9), (1 - 1e-8, None)])
def test_a_thousand_million_photos_are_the_most(share: float, expected: int | None) -> None:
    evaluation = changed(("gap",), {"points": 0.0, "low": -1.0, "high": 100.0, "confidence_level": 0.95})
    evaluation |= {"method": {"name": "cross_validation"}}
    evaluation["accuracy"]["test"]["num_images"] = 1000
    # The upper half of 100 points has to shrink by about a thousand, which a million times the photos do.
    certificate = judge(GateSettings(max_gap_points=0.1 * share), evaluation)
    assert check_of(certificate, "max_gap_points").images_to_decide == expected


def test_a_distance_next_to_none_is_decided_by_no_number_of_photos() -> None:
    evaluation = changed(("gap",), {"points": 0.0, "low": -1.0, "high": 1.0, "confidence_level": 0.95})
    check = check_of(judge(GateSettings(max_gap_points=1e-300), evaluation), "max_gap_points")
    assert (check.verdict, check.images_to_decide) == ("undecided", None)


def test_a_low_accuracy_fails_and_a_wavering_one_is_undecided() -> None:
    low = judge(LIMITS, evaluation_of(0.7, 5000, 0.7, 5000))
    assert check_of(low, "min_test_accuracy").verdict == "fail"
    assert "wholly below the limit 80.0 %" in check_of(low, "min_test_accuracy").reason
    wavering = judge(LIMITS, evaluation_of(0.81, 5000, 0.81, 500))
    assert check_of(wavering, "min_test_accuracy").verdict == "undecided"
    assert (check_of(wavering, "min_test_accuracy").images_to_decide or 0) > 500


def test_the_weakest_class_is_named() -> None:
    certificate = judge(LIMITS, changed(("classes", 0, "recall"), 0.4))
    assert certificate.verdict == "fail"
    assert reasons(certificate) == ("recall 40.0 % of the weakest class 'cat' breaks the limit 50.0 %",)


@pytest.mark.parametrize("weakest", [0, 1, 2])
def test_the_weakest_class_is_judged_wherever_it_stands(weakest: int) -> None:
    classes = [{"name": name, "recall": 0.9, "support": 40} for name in ("cat", "dog", "eel")]
    classes[weakest]["recall"] = 0.25
    check = check_of(judge(LIMITS, changed(("classes",), classes)), "min_class_recall")
    assert (check.verdict, check.value, check.limit) == ("fail", 0.25, 0.5)
    assert f"weakest class {classes[weakest]['name']!r}" in check.reason


# On a test accuracy of ½ the Jeffreys interval of n images is ½ ± 1.96 √(¼ / n), so n = 1.96² / (4 w²) for a half width
# w. Train's own half width is squared and taken off: w² = distance² − train². Its two halves differ here.
@pytest.mark.parametrize(
    ("train", "level", "expected"),
    [
        ((0.50, 0.52, 0.525), 0.95, 1.9600**2 / 4 / (0.010**2 - 0.005**2)),  # the gap must stay below: train's upper
        ((0.50, 0.52, 0.525), 0.99, 2.5758**2 / 4 / (0.010**2 - 0.005**2)),
        ((0.54, 0.55, 0.58), 0.95, 1.9600**2 / 4 / (0.020**2 - 0.010**2)),  # the gap must stay above: train's lower
        # Train alone is too wide: more photos are trained on too, and the gap's ±9 points have to become the distance.
        ((0.515, 0.52, 0.53), 0.95, 100 * (9 / 1) ** 2),
        ((0.53, 0.55, 0.56), 0.95, 100 * (9 / 2) ** 2),
    ],
)
def test_images_to_decide_a_gap_take_off_the_half_of_trains_interval_on_the_limits_side(
    train: tuple[float, float, float], level: float, expected: float
) -> None:
    evaluation = copy.deepcopy(GOOD)
    test = gap.jeffreys_interval(50, 100, level)
    evaluation["accuracy"] = {
        "train": dict(zip(("low", "value", "high"), train, strict=True), num_images=1000),
        "test": {"low": test.low, "value": 0.5, "high": test.high, "num_images": 100},
    }
    points = (train[1] - 0.5) * 100
    evaluation["gap"] = {"points": points, "low": points - 9, "high": points + 9, "confidence_level": level}
    check = check_of(judge(LIMITS, evaluation), "max_gap_points")
    assert check.verdict == "undecided"
    assert check.images_to_decide == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("limit", "distance"), [(0.53, 0.03), (0.48, 0.02)])
def test_images_to_decide_an_accuracy_are_those_of_its_distance_to_the_limit(limit: float, distance: float) -> None:
    evaluation = copy.deepcopy(GOOD)
    test = gap.jeffreys_interval(50, 100)
    evaluation["accuracy"]["test"] = {"low": test.low, "value": 0.5, "high": test.high, "num_images": 100}
    certificate = judge(GateSettings(min_test_accuracy=limit), evaluation)
    expected = 1.96**2 / 4 / distance**2
    assert check_of(certificate, "min_test_accuracy").images_to_decide == pytest.approx(expected, rel=3e-3)


@pytest.mark.parametrize("limit", [0.93, 0.87])
def test_the_side_of_the_interval_that_reaches_the_limit_is_the_one_that_must_shrink(limit: float) -> None:
    evaluation = copy.deepcopy(GOOD)
    test = gap.jeffreys_interval(90, 100)
    evaluation["accuracy"]["test"] = {"low": test.low, "value": 0.9, "high": test.high, "num_images": 100}
    sizes = np.arange(101, 2000)
    low, high = (beta.ppf(share, 0.9 * sizes + 0.5, 0.1 * sizes + 0.5) for share in (0.025, 0.975))
    is_enough = high <= limit if limit > 0.9 else low >= limit
    found = check_of(judge(GateSettings(min_test_accuracy=limit), evaluation), "min_test_accuracy").images_to_decide
    assert found == pytest.approx(sizes[is_enough][0], abs=1)


@pytest.mark.parametrize(("recall", "support", "missing"), [(None, 0, 5), (1.0, 4, 1), (0.0, 2, 3)])
def test_a_class_with_too_few_images_to_judge_is_named_with_how_many_more(
    recall: float | None, support: int, missing: int
) -> None:
    evaluation = changed(("classes", 1), {"name": "dog", "recall": recall, "support": support})
    certificate = judge(LIMITS, evaluation)
    assert certificate.verdict == "undecided"
    said = f"too few images to judge 'dog' ({support}): add about {missing} photos of them"
    assert said in check_of(certificate, "min_class_recall").reason


@pytest.mark.parametrize(("support", "verdict"), [(4, "undecided"), (5, "fail")])
def test_a_class_is_judged_from_five_images_on(support: int, verdict: str) -> None:
    evaluation = changed(("classes", 1), {"name": "dog", "recall": 0.0, "support": support})
    assert check_of(judge(LIMITS, evaluation), "min_class_recall").verdict == verdict


@pytest.mark.parametrize(("count", "more"), [(5, ""), (6, " and 1 more"), (8, " and 3 more")])
def test_of_many_classes_with_too_few_images_the_five_smallest_are_named(count: int, more: str) -> None:
    classes = [{"name": f"c{n}", "recall": 1.0, "support": 4 if n else 1} for n in reversed(range(count))]
    reason = check_of(judge(LIMITS, changed(("classes",), [GOOD["classes"][0], *classes])), "min_class_recall").reason
    assert f"judge 'c0' (1), 'c1' (4), 'c2' (4), 'c3' (4), 'c4' (4){more}: add about {4 + count - 1} photos" in reason


@pytest.mark.parametrize(("support", "photos"), [(4, 4), (2, 10)])
def test_of_a_holdout_as_many_photos_are_missing_as_bring_enough_of_them_to_test(support: int, photos: int) -> None:
    evaluation = changed(("classes", 1), {"name": "dog", "recall": 1.0, "support": support})
    evaluation["facts"] = {"num_images": {"train": 6, "val": 1, "test": 3}}
    assert f"add about {photos} photos" in check_of(judge(LIMITS, evaluation), "min_class_recall").reason


def test_a_weak_class_fails_whatever_else_is_too_few() -> None:
    few = {"name": "cow", "recall": 1.0, "support": 3}
    evaluation = changed(("classes",), [few, {"name": "dog", "recall": 0.4, "support": 50}])
    assert check_of(judge(LIMITS, evaluation), "min_class_recall").verdict == "fail"


def test_without_a_class_that_can_be_judged_the_check_fails() -> None:
    evaluation = changed(("classes",), [{"name": "cow", "recall": 1.0, "support": 3}])
    check = check_of(judge(LIMITS, evaluation), "min_class_recall")
    assert check.verdict == "fail"
    assert "add about 2 photos" in check.reason


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        (("calibration", "ece"), 0.11, "max_ece"),
        (("parity", "max_abs_difference"), 2e-4, "max_parity"),
        (("leaks", "share"), 0.06, "max_leaked_share"),
    ],
)
def test_a_figure_beyond_its_limit_fails(path: tuple[str, ...], value: float, name: str) -> None:
    certificate = judge(LIMITS, changed(path, value))
    assert certificate.verdict == check_of(certificate, name).verdict == "fail"


def test_large_logits_may_differ_by_more_as_float32_keeps_seven_digits_of_each() -> None:
    evaluation = changed(("parity", "max_abs_difference"), 1.2e-3)
    evaluation["parity"]["logit_scale"] = 15.0
    check = check_of(judge(LIMITS, evaluation), "max_parity")
    assert (check.verdict, check.value) == ("pass", pytest.approx(8e-5))
    assert "1.2e-03 between the ONNX and the PyTorch logits, 8.0e-05 of the largest logit, keeps" in check.reason
    evaluation["parity"]["logit_scale"] = 1.5
    assert "of the largest logit" in check_of(judge(LIMITS, evaluation), "max_parity").reason
    evaluation["parity"]["logit_scale"] = 11.0
    assert check_of(judge(LIMITS, evaluation), "max_parity").verdict == "fail"
    assert "2.0e-06 between the ONNX and the PyTorch logits keeps" in check_of(judge(LIMITS, GOOD), "max_parity").reason


def test_an_evaluation_of_an_earlier_version_has_no_scale() -> None:
    evaluation = changed(("parity", "max_abs_difference"), 9e-5)
    del evaluation["parity"]["logit_scale"]
    assert check_of(judge(LIMITS, evaluation), "max_parity").value == 9e-5


@pytest.mark.parametrize(
    ("path", "value"),
    [(("calibration", "ece"), 0.1), (("parity", "max_abs_difference"), 1e-4), (("classes", 0, "recall"), 0.5)],
)
def test_the_limit_itself_is_kept(path: tuple[str, ...], value: float) -> None:
    assert judge(LIMITS, changed(path, value)).verdict == "pass"


@pytest.mark.parametrize("path", JUDGED + SECTIONS)
@pytest.mark.parametrize("value", [None, math.nan, math.inf, "0.01", True, [], {}, -1e9, 10**400])
def test_a_missing_or_malformed_figure_fails_with_a_reason(path: tuple[str | int, ...], value: Any) -> None:
    certificate = judge(LIMITS, changed(path, value))
    assert certificate.verdict == "fail"
    assert all(reason and "\n" not in reason for reason in reasons(certificate))


RANGES = [
    (("classes", 1, "recall"), "min_class_recall", (0.0, 1.0), (-0.001, 1.001)),
    (("calibration", "ece"), "max_ece", (0.0, 1.0), (-0.001, 1.001)),
    (("parity", "max_abs_difference"), "max_parity", (0.0, 1e9), (-1e-9, math.inf)),
    (("parity", "logit_scale"), "max_parity", (1.0, 1e9), (0.999, math.inf)),
    (("parity", "num_images"), "max_parity", (1, 10**9), (0, 0.5, 2.5, 10**9 + 1)),
    (("accuracy", "test", "num_images"), "max_gap_points", (1, 10**9), (0, 2.5, 10**9 + 1)),
    (("accuracy", "test", "num_images"), "min_test_accuracy", (1, 10**9), (0, 2.5, 10**9 + 1)),
    (("accuracy", "test", "low"), "min_test_accuracy", (0.0,), (-0.001,)),
    (("accuracy", "test", "high"), "min_test_accuracy", (1.0,), (1.001,)),
    (("accuracy", "train", "low"), "max_gap_points", (0.0,), (-0.001,)),
    (("accuracy", "train", "high"), "max_gap_points", (1.0,), (1.001,)),
    (("gap", "low"), "max_gap_points", (-100.0,), (-100.5,)),
    (("gap", "high"), "max_gap_points", (100.0,), (100.5,)),
    (("gap", "confidence_level"), "max_gap_points", (0.5, 0.9999), (0.499, 0.99991, 1.0)),
    (("leaks", "share"), "max_leaked_share", (0.0, 1.0), (-0.001, 1.001)),
    (("leaks", "near_duplicates"), "max_leaked_share", (0, 10**6), (-1,)),
    (("leaks", "label_conflicts"), "max_leaked_share", (0, 10**6), (-1,)),
]


@pytest.mark.parametrize(
    ("path", "name", "value"), [(path, name, value) for path, name, good, _ in RANGES for value in good]
)
def test_a_figure_at_the_end_of_its_range_is_judged(path: tuple[str | int, ...], name: str, value: float) -> None:
    assert check_of(judge(LIMITS, changed(path, value)), name).value is not None


@pytest.mark.parametrize(
    ("path", "name", "value"), [(path, name, value) for path, name, _, bad in RANGES for value in (*bad, math.nan)]
)
def test_a_figure_out_of_its_range_fails_its_own_check(path: tuple[str | int, ...], name: str, value: float) -> None:
    check = check_of(judge(LIMITS, changed(path, value)), name)
    assert (check.verdict, check.value) == ("fail", None)
    assert check.limit == getattr(LIMITS, name)
    assert check.reason.startswith(".".join(map(str, path)))
    assert check.reason.endswith(("is out of its range; evaluate again", "is no whole number; evaluate again"))


@pytest.mark.parametrize(
    ("path", "value"), [(("loss", "test"), math.inf), (("classes", 1, "recall"), math.nan), (("more",), [0, -math.inf])]
)
def test_a_number_that_is_not_finite_is_named(path: tuple[str | int, ...], value: Any) -> None:
    check = check_of(judge(LIMITS, changed(path, value)), "finite_figures")
    named = ".".join(map(str, path)) + (".1" if isinstance(value, list) else "")
    assert check.verdict == "fail"
    assert check.reason == f"the evaluation holds a number that is not finite ({named}); evaluate again"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1.0, 3.0, "pass"), (1.0, 3.01, "undecided"), (3.0, 4.0, "undecided"), (3.01, 4.0, "fail")],
)
def test_a_gap_up_to_the_limit_is_kept(low: float, high: float, verdict: str) -> None:
    evaluation = copy.deepcopy(GOOD)
    evaluation["gap"] |= {"points": (low + high) / 2, "low": low, "high": high}
    assert check_of(judge(LIMITS, evaluation), "max_gap_points").verdict == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.8, 0.9, "pass"), (0.79, 0.9, "undecided"), (0.7, 0.8, "undecided"), (0.7, 0.79, "fail")],
)
def test_a_test_accuracy_down_to_the_limit_is_kept(low: float, high: float, verdict: str) -> None:
    evaluation = copy.deepcopy(GOOD)
    evaluation["accuracy"]["test"] |= {"value": (low + high) / 2, "low": low, "high": high}
    check = check_of(judge(LIMITS, evaluation), "min_test_accuracy")
    assert check.verdict == verdict
    assert (check.value, check.low, check.high, check.limit) == ((low + high) / 2, low, high, 0.8)
    assert check.images_to_decide is None or verdict == "undecided"


def test_the_reasons_are_sentences_with_the_figures_and_a_true_minus() -> None:
    evaluation = copy.deepcopy(GOOD)
    evaluation["gap"] |= {"points": -0.04, "low": -1.25, "high": 1.96}
    evaluation["accuracy"]["test"] |= {"value": 0.9512, "low": 0.9, "high": 0.98765}
    assert [check.reason for check in judge(LIMITS, evaluation).checks] == [
        "gap 0.0 points (−1.2 to 2.0) is wholly below the limit 3.0",
        "test accuracy 95.1 % (90.0 to 98.8) is wholly above the limit 80.0 %",
        "recall 80.0 % of the weakest class 'dog' keeps the limit 50.0 %",
        "expected calibration error 0.020 keeps the limit 0.1",
        "largest difference 2.0e-06 between the ONNX and the PyTorch logits keeps the limit 0.0001",
        "leaked share 1.0 % of val and test (2 near-duplicates in another split, 1 with two labels) keeps the limit "
        "5.0 %",
    ]
    assert all(check.images_to_decide is None for check in judge(LIMITS, evaluation).checks)


def test_a_class_without_a_name_is_called_by_its_number() -> None:
    evaluation = changed(("classes",), [{"recall": 0.9, "support": 9}, {"recall": 0.4, "support": 9}])
    assert "weakest class '1'" in check_of(judge(LIMITS, evaluation), "min_class_recall").reason


def test_a_check_is_frozen_and_holds_no_nan() -> None:
    check = judge(LIMITS, GOOD).checks[0]
    with pytest.raises(ValidationError, match="frozen"):
        check.verdict = "pass"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="finite"):
        Check(name="max_ece", verdict="pass", reason="", value=math.nan)
    with pytest.raises(ValidationError, match="Extra inputs"):
        Certificate.model_validate({"verdict": "pass", "checks": [], "note": ""})


def test_an_empty_evaluation_fails_every_check() -> None:
    assert [check.verdict for check in judge(LIMITS, {}).checks] == ["fail"] * 6


def test_an_interval_that_does_not_hold_its_value_fails() -> None:
    assert "is no interval" in reasons(judge(LIMITS, changed(("gap", "points"), 2.9)))[0]


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), lambda inner: st.lists(inner)
       | st.dictionaries(st.sampled_from(["value", "low", "test", "recall", "name"]), inner), max_leaves=6),
       st.sampled_from(JUDGED + SECTIONS))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_anything_anywhere_gets_a_verdict(value: Any, path: tuple[str | int, ...]) -> None:
    certificate = judge(LIMITS, changed(path, value))
    assert Certificate.model_validate_json(certificate.model_dump_json()) == certificate


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_nan_anywhere_never_passes(data: st.DataObject) -> None:
    evaluation = copy.deepcopy(GOOD)
    node: Any = evaluation
    while True:
        key = data.draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], dict | list):
            break
        node = node[key]
    node[key] = math.nan
    assert judge(LIMITS, evaluation).verdict == "fail"


intervals = st.tuples(st.floats(-20, 20), st.floats(0, 5), st.floats(0, 5))


@given(intervals, st.floats(0, 5), st.floats(0, 5), st.floats(-5, 10))
@settings(max_examples=100, deadline=None)
def test_widening_an_interval_never_turns_a_non_pass_into_a_pass(
    interval: tuple[float, float, float], more_below: float, more_above: float, limit: float
) -> None:
    points, below, above = interval
    limits = GateSettings(max_gap_points=limit)
    narrow, wide = copy.deepcopy(GOOD), copy.deepcopy(GOOD)
    narrow["gap"] |= {"points": points, "low": points - below, "high": points + above}
    wide["gap"] |= {"points": points, "low": points - below - more_below, "high": points + above + more_above}
    before, after = (check_of(judge(limits, e), "max_gap_points").verdict for e in (narrow, wide))
    assert before == "pass" or after != "pass"
    assert before == after or after == "undecided"


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 10), st.floats(0, 10))
@settings(max_examples=60, deadline=None)
def test_a_stricter_limit_never_passes_what_a_looser_one_stopped(a: float, b: float, c: float, d: float) -> None:
    loose = GateSettings(min_test_accuracy=min(a, b), max_gap_points=max(c, d))
    strict = GateSettings(min_test_accuracy=max(a, b), max_gap_points=min(c, d))
    if judge(loose, GOOD).verdict != "pass":
        assert judge(strict, GOOD).verdict != "pass"


@given(st.lists(st.sampled_from(["good", "bad", "open"]), min_size=2, max_size=2), st.booleans())
@settings(max_examples=20, deadline=None)
def test_any_fail_fails_and_else_any_undecided_is_undecided(kinds: list[str], ece_is_bad: bool) -> None:
    evaluation = copy.deepcopy(GOOD)
    gaps = {"good": (1.0, 0.5, 1.5), "bad": (5.0, 4.0, 6.0), "open": (3.0, 2.0, 4.0)}
    tests = {"good": (0.95, 0.93, 0.97), "bad": (0.6, 0.5, 0.7), "open": (0.8, 0.7, 0.9)}
    evaluation["gap"] |= dict(zip(("points", "low", "high"), gaps[kinds[0]], strict=True))
    evaluation["accuracy"]["test"] |= dict(zip(("value", "low", "high"), tests[kinds[1]], strict=True))
    evaluation["calibration"]["ece"] = 0.5 if ece_is_bad else 0.01
    expected = "fail" if ece_is_bad or "bad" in kinds else "undecided" if "open" in kinds else "pass"
    assert judge(LIMITS, evaluation).verdict == expected


def test_a_certificate_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        judge(LIMITS, GOOD).verdict = "pass"  # type: ignore[misc]
