"""Places of the marks in the report's charts, which the templates draw as SVG and HTML.

They take the page's colours, so one drawing serves light, dark and print, and every mark can say its figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gapgate.evidence.measures.calibration import FEW_IMAGES
from gapgate.evidence.measures.gap import Interval
from gapgate.text import number, percent

WIDTH, HEIGHT = 420, 240
"""Size of a chart in its own units; a page scales it."""
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 10, 34
"""Margins around the marks, for the axes' texts."""
_STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True, slots=True)
class Tick:
    """One place of an axis: where, in the chart's units or in percent of a strip's width, and its text."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """One value of a curve."""

    x: float
    y: float
    tip: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One bin: its rectangle, where the mean confidence lies, and whether it has few images."""

    x: float
    y: float
    width: float
    height: float
    expected: float
    is_faint: bool
    tip: str


@dataclass(frozen=True, slots=True)
class Curve:
    """The values of one side over the epochs."""

    name: str
    style: str
    path: str
    marks: Sequence[Mark]


@dataclass(frozen=True, slots=True)
class Chart:
    """Axes with curves or bars in them."""

    title: str
    x_title: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    curves: Sequence[Curve] = ()
    bars: Sequence[Bar] = ()
    line: Tick | None = None
    """Upright line with its text."""


@dataclass(frozen=True, slots=True)
class Row:
    """One value with its interval on a strip, in percent of its width."""

    name: str
    text: str
    at: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Strip:
    """Values with their intervals above one axis."""

    rows: Sequence[Row]
    ticks: Sequence[Tick]
    limit: Tick | None = None


def learning_curves(lines: Sequence[Mapping[str, Any]], parting: Mapping[str, Any] | None, train: str) -> list[Chart]:
    """Place loss and accuracy of the epochs; `train` is the name of the training's curve."""
    line = None
    epochs = [line["epoch"] or index + 1 for index, line in enumerate(lines)]
    if len(epochs) < 2:
        return []
    x = _scale(min(epochs), max(epochs), LEFT, WIDTH - RIGHT)
    if parting:
        line = Tick(x(parting["epoch"]), f"epoch {parting['epoch']}")
    # No tick between two epochs.
    whole = [at for at in _ticks(min(epochs), max(epochs), inside=True) if at == int(at)]
    charts = []
    for name, form in (("loss", lambda value: f"{value:.3f}"), ("accuracy", percent)):
        known = [line[f"{side}_{name}"] for line in lines for side in ("train", "val")]
        values = [value for value in known if value is not None]
        if not values:
            continue
        ticks = _ticks(min(values), max(values))
        y = _scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
        curves = [
            _curve(label, side, name, lines, epochs, x, y, form)
            for side, label in (("train", train), ("val", "validation"))
        ]
        factor, unit = (100, " %") if name == "accuracy" else (1, "")
        charts.append(
            Chart(
                title=name,
                x_title="epoch",
                x_ticks=[Tick(x(at), f"{at:g}") for at in whole],
                y_ticks=[Tick(y(at), f"{round(at * factor, 8):g}{unit}") for at in ticks],
                curves=curves,
                line=line,
            )
        )
    return charts


def _curve(
    label: str,
    side: str,
    name: str,
    lines: Sequence[Mapping[str, Any]],
    epochs: Sequence[int],
    x: Callable[[float], float],
    y: Callable[[float], float],
    form: Callable[[float], str],
) -> Curve:
    values = [line[f"{side}_{name}"] for line in lines]
    known = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if value is not None]
    marks = [Mark(x(at), y(value), f"{label}, epoch {at}: {name} {form(value)}") for at, value in known]
    return Curve(label, side, " ".join(f"{mark.x:g},{mark.y:g}" for mark in marks), marks)


def calibration(bins: Sequence[Mapping[str, Any]]) -> Chart:
    """Place the accuracy of each bin of confidence; bins of few images are faint."""
    x, y = _scale(0, 1, LEFT, WIDTH - RIGHT), _scale(0, 1, HEIGHT - BOTTOM, TOP)
    bars = []
    for one in bins:
        if not one["num_images"]:
            continue
        left, right, top = x(one["low"]), x(one["high"]), y(one["accuracy"])
        tip = (
            f"confidence {percent(one['low'], 0)} to {percent(one['high'], 0)}: {one['num_images']:,} images, "
            f"{percent(one['accuracy'])} right, {percent(one['confidence'])} sure on average"
        )
        width, height = round(right - left - 1.5, 2), round(HEIGHT - BOTTOM - top, 2)
        is_faint = one["num_images"] < FEW_IMAGES
        bars.append(Bar(left, top, width, height, y(one["confidence"]), is_faint, tip))
    shares = (0, 0.25, 0.5, 0.75, 1)
    return Chart(
        title="accuracy",
        x_title="confidence",
        x_ticks=[Tick(x(at), percent(at, 0)) for at in shares],
        y_ticks=[Tick(y(at), percent(at, 0)) for at in shares],
        bars=bars,
    )


def gap_strip(gap: Mapping[str, Any], limit: float | None) -> Strip:
    """Place the gap with its interval on an axis in points, with 0 and the limit on it."""
    return gap_strips({"gap": gap}, limit)


def gap_strips(gaps: Mapping[str, Mapping[str, Any]], limit: float | None) -> Strip:
    """Place several gaps by name, as `gap_strip` does."""
    found = {name: Interval(gap["points"], gap["low"], gap["high"]) for name, gap in gaps.items()}
    return _points_strip(found, None if limit is None else (limit, f"limit {number(limit, 'z.4g')}"))


def difference_strip(difference: Interval) -> Strip:
    """Place the difference of two accuracies on an axis in points, with 0 marked."""
    return _points_strip({"second − first": difference}, (0, "no difference"))


def _points_strip(found: Mapping[str, Interval], line: tuple[float, str] | None) -> Strip:
    span = [0.0, *(end for each in found.values() for end in (each.low, each.high)), *([line[0]] if line else [])]
    ticks = _ticks(min(span), max(span))
    x = _scale(ticks[0], ticks[-1], 0, 100)
    rows = [
        Row(name, f"{number(i.value)} ({number(i.low)} to {number(i.high)})", x(i.value), x(i.low), x(i.high))
        for name, i in found.items()
    ]
    return Strip(rows, [Tick(x(at), number(at, "z.4g")) for at in ticks], line and Tick(x(line[0]), line[1]))


def accuracy_strip(
    accuracy: Mapping[str, Mapping[str, Any]], names: Mapping[str, str], limit: float | None = None
) -> Strip:
    """Place accuracies with their intervals on one axis up to 100 %, with the limit on test where it is near."""
    lows = [accuracy[split]["low"] for split in names]
    lowest = min([*lows, *([limit] if limit is not None else [])])
    # A point wide or more: accuracies near 100 % would else be drawn as far apart as 80 and 90 %.
    ticks = _ticks(min(lowest, 0.99), 1)
    x = _scale(ticks[0], ticks[-1], 0, 100)
    rows = [
        Row(name, f"{percent(a['value'])} ({number(a['low'] * 100)} to {percent(a['high'])})", *map(x, _values(a)))
        for name, a in ((name, accuracy[split]) for split, name in names.items())
    ]
    line = None if limit is None else Tick(x(limit), f"least on test {limit * 100:g} %")
    return Strip(rows, [Tick(x(at), f"{round(at * 100, 6):g} %") for at in ticks], line)


def _values(interval: Mapping[str, Any]) -> Iterator[float]:
    yield from (interval[name] for name in ("value", "low", "high"))


def _scale(low: float, high: float, first: float, last: float) -> Callable[[float], float]:
    """Return the function that maps `low` to `first` and `high` to `last`."""
    span = (high - low) or 1.0
    return lambda value: round(first + (value - low) / span * (last - first), 2)


def _ticks(low: float, high: float, count: int = 5, *, inside: bool = False) -> list[float]:
    """Return about `count` round values that enclose `low` and `high`, or lie `inside` them."""
    span = (high - low) or abs(high) or 1.0
    # The least round step that leaves no more than `count` spaces.
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(step * power for step in _STEPS if span / (step * power) <= count)
    first, last = low / step, high / step
    # A value that is a multiple of the step but for rounding is its own tick.
    outer = (math.floor(first + 1e-9), math.ceil(last - 1e-9))
    begin, end = (math.ceil(first - 1e-9), math.floor(last + 1e-9)) if inside else outer
    # Enclosing ticks are two or more: an axis with one has no length.
    # Rounded: 3 · 0.1 is 0.30000000000000004.
    return [round(at * step, 12) for at in range(begin, max(end, begin + (not inside)) + 1)]
