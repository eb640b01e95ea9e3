import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapgate.evidence.measures.calibration import reliability


def test_confidence_that_keeps_its_word_has_no_error() -> None:
    confidence = np.full(10, 0.8, np.float32)
    error, _ = reliability(confidence, np.arange(10) < 8, 10)
    assert error == pytest.approx(0, abs=1e-6)


def test_the_error_is_that_of_the_paper_worked_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55], np.float32)
    correct = np.array([True, True, True, False, False, False])
    error, bins = reliability(confidence, correct, 10)
    assert error == pytest.approx(4 / 6 * 0.2 + 2 / 6 * 0.55, abs=1e-6)
    assert [b["num_images"] for b in bins] == [0, 0, 0, 0, 0, 2, 0, 0, 0, 4]
    for index, found in enumerate(bins):
        assert (found["low"], found["high"]) == pytest.approx((index / 10, (index + 1) / 10))
        expected = {5: (pytest.approx(0.55), 0.0), 9: (pytest.approx(0.95), 0.75)}.get(index, (None, None))
        assert (found["confidence"], found["accuracy"]) == expected


def test_there_are_fifteen_bins_unless_told_otherwise() -> None:
    assert len(reliability(np.array([0.5], np.float32), np.array([True]))[1]) == 15


def test_too_much_confidence_in_one_bin_does_not_make_up_for_too_little_in_another() -> None:
    confidence = np.repeat(np.array([0.9, 0.6], np.float32), [10, 30])
    correct = np.concatenate([np.arange(10) < 6, np.arange(30) < 21])  # 0.9 against 0.6, and 0.6 against 0.7
    error, _ = reliability(confidence, correct, 15)
    assert error == pytest.approx((10 * 0.3 + 30 * 0.1) / 40, abs=1e-6)
    assert confidence.mean() - correct.mean() == pytest.approx(0, abs=1e-6)


def test_a_confidence_that_rounding_put_above_one_is_in_the_last_bin() -> None:
    _, bins = reliability(np.array([1, np.nextafter(np.float32(1), np.float32(2))]), np.array([True, True]), 3)
    assert [b["num_images"] for b in bins] == [0, 0, 2]


def test_an_edge_belongs_to_the_bin_below_it_and_zero_to_the_first() -> None:
    _, bins = reliability(np.array([0.0, 0.5, 1.0]), np.array([True, True, True]), 2)
    assert [b["num_images"] for b in bins] == [2, 1]


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=60), st.integers(2, 100))
@settings(deadline=None)
def test_every_image_is_in_a_bin_and_the_error_is_a_fraction(answers: list[tuple[float, bool]], num_bins: int) -> None:
    confidence, correct = (np.array(column) for column in zip(*answers, strict=True))
    error, bins = reliability(confidence.astype(np.float32), correct, num_bins)
    assert 0 <= error <= 1
    assert sum(b["num_images"] for b in bins) == len(answers)
    assert error >= abs(confidence.mean() - correct.mean()) - 1e-6
