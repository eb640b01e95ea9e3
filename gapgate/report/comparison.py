"""Two evaluations side by side as one self-contained HTML file: settings, data, figures, and the images whose answer
changed."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gapgate.data.splits import SPLIT_NAMES, Splits
from gapgate.data.tiles import thumbnail
from gapgate.evidence.compare import Answer, difference_points, held_out
from gapgate.evidence.measures.gap import Interval
from gapgate.report import charts
from gapgate.report.html import flatten, render_page
from gapgate.text import number, percent

MAX_FLIPS = 60
"""Largest number of pictures of images that newly break, and of those that are newly right."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two evaluations."""

    name: str
    known: Mapping[str, str]
    """Lines of its head, such as the model's version."""
    settings: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    """Content of `evaluation.json`."""
    certificate: Mapping[str, Any]
    """Content of `certificate.json`."""
    predictions: Path
    """File `predictions.parquet`."""
    splits: Path
    """Splits artifact; without it the flips have no pictures."""


@dataclass(frozen=True, slots=True)
class Flip:
    """An image that one of the two gets right and the other does not."""

    old: Answer
    new: Answer
    label: int
    picture: str
    """Data URI; empty without the splits."""


def render(old: Side, new: Side) -> str:
    """Render the comparison of two evaluations as HTML."""
    both = _shared(old, new)
    broken = [one for one in both if one.old.correct and not one.new.correct]
    mended = [one for one in both if one.new.correct and not one.old.correct]
    found = difference_points(len(broken), len(mended), len(both)) if both else None
    sides = {"first": old, "second": new}
    return render_page(
        "comparison.html.j2",
        Path(),
        old=old,
        new=new,
        headline=_headline(found),
        difference=found,
        num_images=len(both),
        difference_strip=found and charts.difference_strip(found),
        gap_strip=charts.gap_strips({name: side.evaluation["gap"] for name, side in sides.items()}, _limit(new)),
        accuracy_strip=charts.accuracy_strip(
            {name: side.evaluation["accuracy"]["test"] for name, side in sides.items()}, {name: name for name in sides}
        ),
        figures=list(_figures(old, new)),
        settings=list(_differences(old.settings, new.settings)),
        data=list(_differences(_data(old), _data(new))),
        flips=[
            (title, len(some), _pictured(some, old, new))
            for title, some in (("Newly wrong in the second", broken), ("Newly right in the second", mended))
        ],
        names=[one["name"] for one in new.evaluation["classes"]],
    )


def _headline(found: Interval | None) -> str:
    if found is None:
        return "No image was held out in both: their answers cannot be compared"
    if found.low > 0:
        return "The second run is better on images that neither has seen"
    if found.high < 0:
        return "The second run is worse on images that neither has seen"
    return "The images that both held out show no difference"


def _shared(old: Side, new: Side) -> list[Flip]:
    """Pair the answers to the images that both held out, in the order of their names."""
    olds, news = held_out(old.predictions), held_out(new.predictions)
    if [one["name"] for one in old.evaluation["classes"]] != [one["name"] for one in new.evaluation["classes"]]:
        return []  # a label's number means another class
    pairs = [Flip(olds[key], answer, key[1], "") for key, answer in news.items() if key in olds]
    return sorted(pairs, key=lambda one: one.new.id)


def _pictured(flips: Sequence[Flip], old: Side, new: Side) -> list[Flip]:
    """Add the pictures to the flips in which the wrong answer is the surest."""
    surest = sorted(flips, key=lambda one: -(one.new if one.old.correct else one.old).confidence)
    shown = surest[:MAX_FLIPS]
    # The splits of either run will do; `gapgate clean` may have removed the other's.
    for side, answers in ((new, [one.new for one in shown]), (old, [one.old for one in shown])):
        if (side.splits / "images.npy").exists():
            images = Splits.open(side.splits).images
            sources = [_source(images[answer.row]) for answer in answers]
            return [Flip(one.old, one.new, one.label, uri) for one, uri in zip(shown, sources, strict=True)]
    return shown


def _source(pixels: Any) -> str:
    data, suffix = thumbnail(pixels)
    kind = "png" if suffix == ".png" else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


def _figures(old: Side, new: Side) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, both values with their intervals, and the difference of each figure."""
    gaps = [side.evaluation["gap"] for side in (old, new)]
    texts = [f"{number(gap['points'])} ({number(gap['low'])} to {number(gap['high'])})" for gap in gaps]
    yield "gap, points", texts[0], texts[1], number(gaps[1]["points"] - gaps[0]["points"], "+z.1f")
    for split in SPLIT_NAMES:
        rows = [side.evaluation["accuracy"][split] for side in (old, new)]
        texts = [f"{percent(a['value'])} ({number(100 * a['low'])} to {percent(a['high'])})" for a in rows]
        change = number(100 * (rows[1]["value"] - rows[0]["value"]), "+z.1f")
        yield f"accuracy on {split}", texts[0], texts[1], f"{change} points"
    errors = [side.evaluation["calibration"]["ece"] for side in (old, new)]
    yield "calibration error", f"{errors[0]:.3f}", f"{errors[1]:.3f}", number(errors[1] - errors[0], "+z.3f")
    checks = [{check["name"]: check["verdict"] for check in side.certificate["checks"]} for side in (old, new)]
    for name in dict.fromkeys([*checks[0], *checks[1]]):
        before, after = (found.get(name, "–") for found in checks)
        yield name, before, after, "" if before == after else f"{before} → {after}"


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield each value that differs: its dotted name and both values, `–` where there is none."""
    values = [dict(flatten(side)) for side in (old, new)]
    for name in sorted(set(values[0]) | set(values[1])):
        before, after = (side.get(name, "–") for side in values)
        if before != after:
            yield name, before, after


def _data(side: Side) -> dict[str, Any]:
    facts = side.evaluation.get("facts") or {}
    names = ("dataset", "num_images", "class_names", "image_shape")
    return {name: facts[name] for name in names if name in facts}


def _limit(side: Side) -> float | None:
    limits = {check["name"]: check.get("limit") for check in side.certificate["checks"]}
    return limits.get("max_gap_points")
