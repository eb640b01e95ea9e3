"""The gate: judges an evaluation against limits. Nothing is read or written here.

A check of an interval passes if the whole interval keeps the limit and fails if the whole interval breaks it. Otherwise
it is undecided, and states the number of test images that would decide it. A figure that is missing, not finite or out
of its range fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gapgate.evidence.measures.gap import MAX_IMAGES, Interval, images_to_decide
from gapgate.evidence.sealed.certificate import Certificate, Check, Verdict
from gapgate.settings.sections import GateSettings
from gapgate.text import number

MIN_CLASS_IMAGES = 5
"""Fewest judged images of a class by which its recall is judged; of 4 right ones of 4, the interval begins at 54 %."""
_LISTED_CLASSES = 5


class _UnusableError(Exception):
    """Error for a figure of the evaluation that cannot be judged; its text is the reason."""


def judge(settings: GateSettings, evaluation: Mapping[str, Any]) -> Certificate:
    """Judge the content of `evaluation.json` against the limits."""
    judges: dict[str, tuple[float, Callable[[float, Any], Check]]] = {
        "max_gap_points": (settings.max_gap_points, _judge_gap),
        "min_test_accuracy": (settings.min_test_accuracy, _judge_test_accuracy),
        "min_class_recall": (settings.min_class_recall, _judge_class_recall),
        "max_ece": (settings.max_ece, _judge_calibration),
        "max_parity": (settings.max_parity, _judge_parity),
        "max_leaked_share": (settings.max_leaked_share, _judge_leaks),
    }
    # Every check runs, also after a failure, so that the user sees all that is wrong at once.
    checks = [_guarded(name, limit, check, evaluation) for name, (limit, check) in judges.items()]
    # NaN and infinity are no JSON (RFC 8259, section 6), but Python's reader accepts them. They fail the whole
    # evaluation, also in figures that no check reads: they come from a calculation that went wrong.
    if (path := next(_not_finite(evaluation), None)) is not None:
        reason = f"the evaluation holds a number that is not finite ({path}); evaluate again"
        checks.append(Check(name="finite_figures", verdict="fail", reason=reason))
    verdicts = {check.verdict for check in checks}
    overall: Verdict = "fail" if "fail" in verdicts else "undecided" if "undecided" in verdicts else "pass"
    return Certificate(verdict=overall, checks=tuple(checks), evidence=str(_at(evaluation, "method", "words") or ""))


def _guarded(name: str, limit: float, judge_one: Callable[[float, Any], Check], evaluation: Any) -> Check:
    try:
        return judge_one(limit, evaluation)
    except _UnusableError as error:
        return Check(name=name, verdict="fail", reason=str(error), limit=limit)


def _judge_gap(limit: float, evaluation: Any) -> Check:
    gap = _interval(evaluation, "gap", value_key="points", least=-100, most=100)
    # A limit below the gap is reached when test accuracy rises, since the gap is train minus test.
    decide = _to_decide(evaluation, abs(limit - gap.value) / 100, upwards=limit < gap.value, gap=gap)
    said = f"gap {number(gap.value)} points ({number(gap.low)} to {number(gap.high)})"
    return _judge_interval("max_gap_points", said, gap, limit, number(limit), decide, upper=True)


def _judge_test_accuracy(limit: float, evaluation: Any) -> Check:
    test = _interval(evaluation, "accuracy", "test")
    decide = _to_decide(evaluation, abs(limit - test.value), upwards=limit > test.value)
    of = "held-out" if _is_folded(evaluation) else "test"
    said = f"{of} accuracy {_percent(test.value)} % ({_percent(test.low)} to {_percent(test.high)})"
    return _judge_interval("min_test_accuracy", said, test, limit, f"{_percent(limit)} %", decide, upper=False)


def _judge_class_recall(limit: float, evaluation: Any) -> Check:
    classes = _at(evaluation, "classes")
    if not isinstance(classes, list) or not classes:
        raise _UnusableError("the evaluation has no per-class figures; evaluate again")
    recalls: list[tuple[float, str]] = []
    few: list[tuple[int, str]] = []
    for index, entry in enumerate(classes):
        name = str(entry.get("name", index)) if isinstance(entry, dict) else str(index)
        support = entry.get("support") if isinstance(entry, dict) else None
        # `type`, since a bool is an int for `isinstance`.
        if type(support) is int and support < MIN_CLASS_IMAGES:
            few.append((support, name))
        else:
            recalls.append((_figure(evaluation, "classes", index, "recall", least=0, most=1), name))
    if not recalls:
        raise _UnusableError(f"no class has {MIN_CLASS_IMAGES} images to judge it by; {_more_of(few, evaluation)}")
    # The weakest class, not the mean: one class that is never recognised hides in the mean of many.
    recall, name = min(recalls)
    said = f"recall {_percent(recall)} % of the weakest class {name!r}"
    check = _judge_point("min_class_recall", said, recall, limit, f"{_percent(limit)} %", upper=False)
    if few and check.verdict == "pass":
        reason = f"{check.reason}; too few images to judge {_named(few)}: {_more_of(few, evaluation)}"
        return check.model_copy(update={"verdict": "undecided", "reason": reason})
    return check


def _named(few: Sequence[tuple[int, str]]) -> str:
    names = ", ".join(f"{name!r} ({support})" for support, name in sorted(few)[:_LISTED_CLASSES])
    return names + (f" and {len(few) - _LISTED_CLASSES} more" if len(few) > _LISTED_CLASSES else "")


def _more_of(few: Sequence[tuple[int, str]], evaluation: Any) -> str:
    """Say how many photos bring every class of `few` to `MIN_CLASS_IMAGES` judged ones."""
    missing = sum(MIN_CLASS_IMAGES - support for support, _ in few)
    return f"add about {math.ceil(missing / _judged_share(evaluation)):,} photos of them"


def _judge_calibration(limit: float, evaluation: Any) -> Check:
    error = _figure(evaluation, "calibration", "ece", least=0, most=1)
    return _judge_point("max_ece", f"expected calibration error {error:.3f}", error, limit, f"{limit:g}", upper=True)


def _judge_parity(limit: float, evaluation: Any) -> Check:
    _count(evaluation, "parity", "num_images")  # a difference over no images proves nothing
    difference = _figure(evaluation, "parity", "max_abs_difference", least=0)
    # An evaluation of an earlier version has no scale.
    scale = _figure(evaluation, "parity", "logit_scale", least=1) if "logit_scale" in evaluation["parity"] else 1.0
    said = f"largest difference {difference:.1e} between the ONNX and the PyTorch logits"
    if scale > 1:
        said += f", {difference / scale:.1e} of the largest logit,"
    return _judge_point("max_parity", said, difference / scale, limit, f"{limit:g}", upper=True)


def _judge_leaks(limit: float, evaluation: Any) -> Check:
    share = _figure(evaluation, "leaks", "share", least=0, most=1)
    kinds = {"copies": "copies", "near_duplicates": "near-duplicates", "groups": "bursts or series"}
    counts = {words: int(_figure(evaluation, "leaks", key, least=0)) for key, words in kinds.items()}
    conflicts = int(_figure(evaluation, "leaks", "label_conflicts", least=0))
    twice = ", ".join(f"{count:,} {words}" for words, count in counts.items() if count) or "none"
    torn = f"{conflicts:,}" if conflicts else "none"
    where = f"{twice} in another split, {torn} with two labels"
    reason = f"leaked share {_percent(share)} % of val and test ({where})"
    return _judge_point("max_leaked_share", reason, share, limit, f"{_percent(limit)} %", upper=True)


def _judge_interval(
    name: str, said: str, found: Interval, limit: float, limit_text: str, decide: _Decision, *, upper: bool
) -> Check:
    """Judge a whole interval against an upper limit (`upper` is True) or a lower one."""
    kept, broken = ("below", "above") if upper else ("above", "below")
    inside = found.high <= limit if upper else found.low >= limit
    outside = found.low > limit if upper else found.high < limit
    verdict: Verdict = "pass" if inside else "fail" if outside else "undecided"
    if verdict == "undecided":
        reason = f"{said} reaches both sides of the limit {limit_text}; {decide.words}"
    else:
        reason = f"{said} is wholly {kept if inside else broken} the limit {limit_text}"
    return Check(
        name=name,
        verdict=verdict,
        reason=reason,
        value=found.value,
        low=found.low,
        high=found.high,
        limit=limit,
        images_to_decide=decide.num_images if verdict == "undecided" else None,
    )


def _judge_point(name: str, said: str, value: float, limit: float, limit_text: str, *, upper: bool) -> Check:
    """Judge a figure without an interval; a figure equal to the limit passes."""
    inside = value <= limit if upper else value >= limit
    reason = f"{said} {'keeps' if inside else 'breaks'} the limit {limit_text}"
    return Check(name=name, verdict="pass" if inside else "fail", reason=reason, value=value, limit=limit)


@dataclass(frozen=True, slots=True)
class _Decision:
    """Photos that would decide an undecided check."""

    num_images: int | None
    """Number of judged images, the present ones included; None: no number would."""
    words: str


def _to_decide(evaluation: Any, distance: float, *, upwards: bool, gap: Interval | None = None) -> _Decision:
    """Say how many more photos would decide, if every figure stays as it is; for the gap, give its interval."""
    now = _count(evaluation, "accuracy", "test", "num_images")
    needed = None
    if gap is None or not _is_folded(evaluation):
        train = None if gap is None else _interval(evaluation, "accuracy", "train")
        needed = _images_to_decide(evaluation, now, distance, upwards=upwards, train=train)
    if needed is None and gap is not None:
        # More photos are trained on as well, and the whole interval shrinks by the root of their number.
        width = (gap.value - gap.low if upwards else gap.high - gap.value) / 100
        if width < MAX_IMAGES * distance:
            needed = math.ceil(now * (width / distance) ** 2 * (1 - 1e-9))  # not one more for a rounding error
    if needed is None or needed > MAX_IMAGES:
        return _Decision(None, "no number of photos would decide")
    more = math.ceil((needed - now) / _judged_share(evaluation))
    # Two digits: the estimate is no better.
    rounded = round(more, 2 - len(str(more)))
    weakest = _most_wrong_class(evaluation)
    return _Decision(
        needed, f"about {rounded:,} more photos would decide" + (weakest and f", most of them of {weakest}")
    )


def _is_folded(evaluation: Any) -> bool:
    return bool(_at(evaluation, "method", "name") == "cross_validation")


def _judged_share(evaluation: Any) -> float:
    """Share of all images that are judged: all of a cross-validation, else those of test."""
    counts = _at(evaluation, "facts", "num_images")
    if _is_folded(evaluation) or not isinstance(counts, Mapping):
        return 1.0
    known = [count for count in counts.values() if isinstance(count, int) and count > 0]
    test = counts.get("test")
    return test / sum(known) if isinstance(test, int) and test > 0 else 1.0


def _most_wrong_class(evaluation: Any) -> str:
    """Name the class with the most wrong answers; empty where there is none."""
    classes = _at(evaluation, "classes")
    wrong: list[tuple[float, str]] = []
    for entry in classes if isinstance(classes, list) else []:
        recall, support = _at(entry, "recall"), _at(entry, "support")
        if isinstance(recall, int | float) and isinstance(support, int) and recall < 1:
            wrong.append(((1 - recall) * support, str(_at(entry, "name"))))
    return repr(max(wrong)[1]) if wrong else ""


def _images_to_decide(
    evaluation: Any, num_images: int, distance: float, *, upwards: bool, train: Interval | None
) -> int | None:
    test = _interval(evaluation, "accuracy", "test")
    # Upwards, the gap's lower end matters: train's lower half width goes with test's upper one (Newcombe's method 10).
    fixed = 0.0 if train is None else (train.value - train.low if upwards else train.high - train.value)
    return images_to_decide(
        test,
        num_images,
        distance,
        upwards=upwards,
        fixed_width=fixed,
        confidence_level=_figure(evaluation, "gap", "confidence_level", least=0.5, most=0.9999),
    )


def _interval(evaluation: Any, *path: str, value_key: str = "value", least: float = 0, most: float = 1) -> Interval:
    low, value, high = (_figure(evaluation, *path, key, least=least, most=most) for key in ("low", value_key, "high"))
    if not low <= value <= high:
        raise _UnusableError(f"{'.'.join(path)} is no interval ({low} to {high} around {value}); evaluate again")
    return Interval(value, low, high)


def _count(evaluation: Any, *path: str) -> int:
    number = _figure(evaluation, *path, least=1, most=MAX_IMAGES)
    if number != int(number):
        raise _UnusableError(f"{'.'.join(path)}={number} is no whole number; evaluate again")
    return int(number)


def _figure(evaluation: Any, *path: str | int, least: float, most: float = math.inf) -> float:
    """Return a number of the evaluation that lies between `least` and `most`.

    Raises:
        _UnusableError: it is missing, no number, not finite or out of its range.
    """
    dotted = ".".join(str(part) for part in path)
    value = _at(evaluation, *path)
    # In Python a bool is an int: `true` in the JSON would count as an accuracy of 1.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _UnusableError(f"{dotted} is missing from the evaluation; evaluate again")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond the range of floats
        number = math.inf
    # The comparison comes first and is negated as a whole, so that NaN, which fails every comparison, is refused.
    if not least <= number <= most or not math.isfinite(number):
        raise _UnusableError(f"{dotted}={number:.6g} is out of its range; evaluate again")
    return number


def _at(content: Any, *path: str | int) -> Any:
    """Return the value at a path of keys and indices, or None if there is none."""
    for part in path:
        if isinstance(content, Mapping):
            content = content.get(part)
        elif isinstance(content, list) and isinstance(part, int) and part < len(content):
            content = content[part]
        else:
            return None
    return content


def _not_finite(content: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted path of every NaN and infinity in JSON-able content."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _not_finite(value, f"{path}.{key}".lstrip("."))
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from _not_finite(value, f"{path}.{index}")
    elif isinstance(content, float) and not math.isfinite(content):
        yield path


def _percent(fraction: float) -> str:
    return f"{fraction * 100:.1f}"
