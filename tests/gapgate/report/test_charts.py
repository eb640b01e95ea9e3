"""Places of the marks in the report's charts, by hand.

A chart is 420 × 240 with margins of 48, 12, 10 and 34: values lie from 48 to 408 across, and from 206 up to 10."""

import pytest

from gapgate.evidence.measures.calibration import FEW_IMAGES
from gapgate.evidence.measures.gap import Interval
from gapgate.report import charts


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.03, 0.97, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.3, 0.6, [0.3, 0.4, 0.5, 0.6]),
        (-3, 12, [-5, 0, 5, 10, 15]),
        (0, 12.5, [0, 2.5, 5, 7.5, 10, 12.5]),
        (3, 3, [3, 4]),
        (0, 0, [0, 0.2]),
    ],
)
def test_ticks_are_round_enclose_the_values_and_leave_five_spaces_at_most(low, high, expected):
    assert charts._ticks(low, high) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(1, 20, [5, 10, 15, 20]), (1, 6, [1, 2, 3, 4, 5, 6]), (3, 98, [20, 40, 60, 80])]
)
def test_ticks_inside_leave_out_what_lies_beyond_the_values(low, high, expected):
    assert charts._ticks(low, high, inside=True) == expected


def lines(**columns):
    names = ("epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy")
    count = len(next(iter(columns.values())))
    return [{name: columns.get(name, [None] * count)[at] for name in names} for at in range(count)]


def test_each_curve_goes_through_its_own_values():
    history = lines(
        epoch=[1, 2, 3], train_loss=[1.0, 0.6, 0.3], val_loss=[0.9, None, 0.8],
        train_accuracy=[0.5, 0.75, 1.0], val_accuracy=[0.5, 0.7, 0.6],
    )  # fmt: skip
    loss, accuracy = charts.learning_curves(history, {"epoch": 2}, "train (augmented)")
    # Ticks of 0.3 to 1.0 are 0.2, 0.4 … 1.0: 0.2 lies at 206 and 1.0 at 10, so 0.1 is 24.5.
    assert [(tick.at, tick.text) for tick in loss.y_ticks] == [
        (206, "0.2"), (157, "0.4"), (108, "0.6"), (59, "0.8"), (10, "1"),
    ]  # fmt: skip
    train, val = loss.curves
    assert (loss.title, loss.x_title, train.name, val.name) == ("loss", "epoch", "train (augmented)", "validation")
    assert [(mark.x, mark.y) for mark in train.marks] == [(48, 10), (228, 108), (408, 181.5)]
    assert [(mark.x, mark.y) for mark in val.marks] == [(48, 34.5), (408, 59)]
    assert (train.style, train.path) == ("train", "48,10 228,108 408,181.5")
    assert (val.style, val.marks[1].tip) == ("val", "validation, epoch 3: loss 0.800")
    # Ticks of 0.5 to 1.0 are 0.5, 0.6 … 1.0: a tenth is 39.2.
    train, val = accuracy.curves
    assert [mark.y for mark in train.marks] == [206, 108, 10]
    assert [mark.y for mark in val.marks] == [206, 127.6, 166.8]
    assert [tick.text for tick in accuracy.y_ticks] == ["50 %", "60 %", "70 %", "80 %", "90 %", "100 %"]
    assert val.marks[1].tip == "validation, epoch 2: accuracy 70.0 %"
    for chart in (loss, accuracy):
        assert [(tick.at, tick.text) for tick in chart.x_ticks] == [(48, "1"), (228, "2"), (408, "3")]
        assert (chart.line.at, chart.line.text) == (228, "epoch 2")


def test_epochs_without_figures_or_numbers_and_curves_of_one_epoch():
    (loss,) = charts.learning_curves(lines(train_loss=[1.0, 0.5]), None, "train")
    assert [mark.tip for mark in loss.curves[0].marks] == ["train, epoch 1: loss 1.000", "train, epoch 2: loss 0.500"]
    assert (loss.curves[1].marks, loss.line) == ([], None)
    assert charts.learning_curves(lines(train_loss=[1.0]), None, "train") == []


def test_a_bar_stands_on_its_bin_as_high_as_the_accuracy_beside_its_mean_confidence():
    bins = [
        {"low": 0.5, "high": 0.75, "num_images": FEW_IMAGES, "accuracy": 0.5, "confidence": 0.6},
        {"low": 0.25, "high": 0.5, "num_images": 0, "accuracy": None, "confidence": None},
        {"low": 0.75, "high": 1.0, "num_images": FEW_IMAGES - 1, "accuracy": 0.75, "confidence": 0.9},
    ]
    chart = charts.calibration(bins)
    assert [(bar.x, bar.y, bar.width, bar.height, bar.expected, bar.is_faint) for bar in chart.bars] == [
        (228, 108, 88.5, 98, 88.4, False),
        (318, 59, 88.5, 147, 29.6, True),
    ]
    assert chart.bars[0].tip == (f"confidence 50 % to 75 %: {FEW_IMAGES} images, 50.0 % right, 60.0 % sure on average")
    assert [(tick.at, tick.text) for tick in chart.x_ticks] == [
        (48, "0 %"), (138, "25 %"), (228, "50 %"), (318, "75 %"), (408, "100 %"),
    ]  # fmt: skip
    assert [tick.at for tick in chart.y_ticks] == [206, 157, 108, 59, 10]


def test_a_gap_lies_between_its_ends_on_an_axis_with_zero_and_the_limit():
    strip = charts.gap_strip({"points": 4.0, "low": 2.0, "high": 6.0}, 5.0)
    (row,) = strip.rows
    # Ticks 0, 2, 4, 6: a point is 16.67 % of the width.
    assert (row.name, row.text, row.low, row.at, row.high) == ("gap", "4.0 (2.0 to 6.0)", 33.33, 66.67, 100)
    assert [(tick.at, tick.text) for tick in strip.ticks] == [(0, "0"), (33.33, "2"), (66.67, "4"), (100, "6")]
    assert (strip.limit.at, strip.limit.text) == (83.33, "limit 5")
    negative = charts.gap_strip({"points": -1.0, "low": -2.0, "high": 0.5}, None)
    assert negative.limit is None
    assert [tick.text for tick in negative.ticks] == ["−2", "−1.5", "−1", "−0.5", "0", "0.5"]
    assert [negative.rows[0].low, negative.rows[0].at, negative.rows[0].high] == [0, 40, 100]


def test_a_difference_lies_beside_the_mark_of_none():
    strip = charts.difference_strip(Interval(1.0, -1.0, 3.0))
    assert (strip.rows[0].low, strip.rows[0].at, strip.rows[0].high) == (0, 50, 100)
    assert (strip.rows[0].name, strip.limit.at, strip.limit.text) == ("second − first", 25, "no difference")


def test_accuracies_lie_on_one_axis_up_to_all_right_a_point_wide_or_more():
    accuracy = {
        "train": {"value": 0.9, "low": 0.875, "high": 0.95},
        "test": {"value": 0.8, "low": 0.75, "high": 0.85},
    }
    strip = charts.accuracy_strip(accuracy, {"train": "train", "test": "held out"}, 0.775)
    # Ticks 75, 80 … 100 %: a point is 4 % of the width.
    assert [tick.text for tick in strip.ticks] == ["75 %", "80 %", "85 %", "90 %", "95 %", "100 %"]
    assert [(row.name, row.low, row.at, row.high) for row in strip.rows] == [
        ("train", 50, 60, 80),
        ("held out", 0, 20, 40),
    ]
    assert strip.rows[1].text == "80.0 % (75.0 to 85.0 %)"
    assert (strip.limit.at, strip.limit.text) == (10, "least on test 77.5 %")
    sure = charts.accuracy_strip({"test": {"value": 0.999, "low": 0.998, "high": 1.0}}, {"test": "test"})
    assert (sure.ticks[0].text, sure.ticks[-1].text, sure.limit) == ("99 %", "100 %", None)
    low = charts.accuracy_strip({"test": {"value": 0.9, "low": 0.875, "high": 1.0}}, {"test": "test"}, 0.5)
    assert (low.ticks[0].text, low.limit.at, low.rows[0].low) == ("50 %", 0, 75)
