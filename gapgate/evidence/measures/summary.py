"""Every figure that follows from the predictions alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gapgate.data.splits import SplitName
from gapgate.evidence.measures import calibration, gap, metrics
from gapgate.evidence.measures.predictions import Predictions
from gapgate.settings.sections import EvaluateSettings


def measure(
    settings: EvaluateSettings, found: Mapping[SplitName, Predictions], class_names: list[str], num_folds: int = 0
) -> dict[str, Any]:
    """Compute every figure that follows from the predictions alone; `num_folds` of them are of a cross-validation."""
    # One generator serves all intervals, so the order of the calls below is part of the result: equal predictions and
    # settings give equal bytes of `evaluation.json` only while it stays.
    rng = np.random.default_rng(settings.seed)
    level = settings.confidence_level
    accuracy = {
        name: gap.measure(
            p.correct,
            rng,
            groups=p.groups,
            num_resamples=settings.num_resamples,
            inflation=gap.FOLD_INFLATION if num_folds and name != "val" else 1.0,
        )
        for name, p in found.items()
    }
    train, test = found["train"], found["test"]
    classes = metrics.per_class(test.labels, test.predicted, class_names)
    of_pairs = _paired_gap if num_folds else _class_gap
    gaps = [of_pairs(settings, train, test, label, rng) for label in range(len(class_names))]
    overall = (
        _paired_gap(settings, train, test, None, rng)
        if num_folds
        else _fields(gap.gap(accuracy["train"], accuracy["test"], level), "points")
    )
    for entry, class_gap in zip(classes, gaps, strict=True):
        entry |= {"gap_points": class_gap["points"], "gap_low": class_gap["low"], "gap_high": class_gap["high"]}
    ece, bins = calibration.reliability(test.confidence, test.correct, settings.calibration_bins)
    return {
        "accuracy": {
            name: _fields(a.interval(level))
            | {"num_images": len(np.unique(found[name].rows)), "num_groups": _num_groups(found[name])}
            for name, a in accuracy.items()
        },
        "loss": {name: metrics.finite(float(p.losses.mean())) for name, p in found.items()},
        "gap": overall
        | {
            "confidence_level": level,
            "vs_val": _fields(gap.gap(accuracy["train"], accuracy["val"], level), "points"),
            "per_class": [{"name": name, **class_gap} for name, class_gap in zip(class_names, gaps, strict=True)],
        },
        "classes": classes,
        "confusion": metrics.confusion(test.labels, test.predicted, len(class_names)).tolist(),
        "calibration": {"ece": ece, "bins": bins, "split": "test"},
    }


def _num_groups(found: Predictions) -> int | None:
    return None if found.groups is None else len(np.unique(found.groups))


def _class_gap(
    settings: EvaluateSettings, train: Predictions, test: Predictions, label: int, rng: np.random.Generator
) -> dict[str, float | None]:
    """Compute the gap of one class; all None if train or test has no image of it."""
    sides = []
    for side in (train, test):
        of_class = side.labels == label
        if not of_class.any():
            return {"points": None, "low": None, "high": None}
        groups = None if side.groups is None else side.groups[of_class]
        sides.append(gap.measure(side.correct[of_class], rng, groups=groups, num_resamples=settings.num_resamples))
    return {**_fields(gap.gap(sides[0], sides[1], settings.confidence_level), "points")}


def _paired_gap(
    settings: EvaluateSettings, train: Predictions, test: Predictions, label: int | None, rng: np.random.Generator
) -> dict[str, float | None]:
    """Compute the gap of a cross-validation, or that of one class; all None if no image of it was trained on."""
    # The share of right answers among the models that saw an image; one of val was in no model's training.
    # test.rows are ascending and hold each image that is in a fold, so the search finds the place of every row of
    # train.
    places = np.searchsorted(test.rows, train.rows)
    seen = np.bincount(places, minlength=len(test.rows))  # (n,) models that were trained on each image
    right = np.bincount(places, weights=train.correct, minlength=len(test.rows))
    kept = seen > 0 if label is None else (seen > 0) & (test.labels == label)
    if not kept.any():
        return {"points": None, "low": None, "high": None}
    interval = gap.paired_gap(
        right[kept] / seen[kept],
        test.correct[kept],
        rng,
        groups=None if test.groups is None else test.groups[kept],
        num_resamples=settings.num_resamples,
        confidence_level=settings.confidence_level,
    )
    return {**_fields(interval, "points")}


def _fields(interval: gap.Interval, name: str = "value") -> dict[str, Any]:
    return {name: interval.value, "low": interval.low, "high": interval.high}
