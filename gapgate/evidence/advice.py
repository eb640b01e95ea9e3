"""Advice after an evaluation: what would raise the accuracy or narrow the gap, the largest expected effect first.

Each cause is a function of measured figures. Its effect is in percentage points of accuracy on new images, or of the
gap where it leaves the accuracy as it is; both count the same. The shares of a gap or an error that a remedy takes away
were measured: for the overfitting of small networks in the ablation of `docs/recipes.md`, for small images and
pretrained features in `bench/RESULTS.md`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapgate.settings.sections import FINETUNED_IMAGES, ONNX
from gapgate.text import percent

LEAST_POINTS = 0.5
"""Smallest expected effect in points that is worth a line."""
MAX_LINES = 5
"""Largest number of lines."""
ENOUGH_CLASS_IMAGES = 100
"""Number of training images of a class from which on more of them are no first remedy."""
_AUGMENTATION, _DROPOUT, _WEIGHT_DECAY, _STOPPING = 0.7, 0.65, 0.45, 0.25
"""Share of the gap that each remedy takes away where the training has none of them."""
_LEAST_CONFUSED = 5
"""Least number of wrong answers between two classes that stand out."""
_SHOWN_PAIRS = 3
_GROWTH = 0.22
"""Exponent by which errors shrink with the number of training images: 2 times as many leave 86 % of them."""
_PRETRAINED = 0.55
"""Share of the errors of a small network on photos that pretrained features do not make."""
_FINETUNED = 0.35
"""Share of the errors of frozen features that fine-tuning does not make: 23 % on flowers, 54 % on hand signs."""


@dataclass(frozen=True, slots=True)
class Advice:
    """One cause, and what a user can do about it."""

    cause: str
    """Short name of the cause, such as `wrong labels`."""
    text: str
    """One sentence with figures and, where there is one, the setting."""
    points: float
    """Expected effect in percentage points; infinite where the figures themselves are in doubt."""


def advise(evaluation: Mapping[str, Any], certificate: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the advice on the content of `evaluation.json` and `certificate.json`, as JSON-able rows: cause, text.

    Figures that an evaluation of an older version lacks give no advice.
    """
    figures = _Figures(evaluation, certificate)
    found = [one for cause in _CAUSES for one in cause(figures) if one.points >= LEAST_POINTS]
    found.sort(key=lambda one: -one.points)
    return [{key: value for key, value in asdict(one).items() if key != "points"} for one in found[:MAX_LINES]]


class _Figures:
    """The figures of an evaluation that the causes read."""

    def __init__(self, evaluation: Mapping[str, Any], certificate: Mapping[str, Any]) -> None:
        facts = evaluation.get("facts") or {}
        accuracy = evaluation["accuracy"]
        self.error = 100 * (1 - accuracy["test"]["value"])
        self.train_error = 100 * (1 - accuracy["train"]["value"])
        self.half_width = 50 * (accuracy["test"]["high"] - accuracy["test"]["low"])
        self.gap = max(0.0, evaluation["gap"]["points"] or 0.0)
        self.num_judged = accuracy["test"]["num_images"]
        self.curve = evaluation.get("learning_curve") or {}
        self.parting = evaluation.get("parting") or {}
        self.leaks = evaluation.get("leaks") or {}
        self.num_wrong = (evaluation.get("suspects") or {}).get("estimated_wrong", 0)
        self.names = [one["name"] for one in evaluation["classes"]]
        self.confusion: NDArray[np.int64] = np.array(evaluation["confusion"])
        self.checks = {check["name"]: check for check in certificate["checks"]}
        train = (((evaluation.get("inputs") or {}).get("model") or {}).get("settings")) or {}
        self.weight_decay, self.patience = train.get("weight_decay", 0), train.get("patience", 0)
        self.num_train = (facts.get("num_images") or {}).get("train", 0)
        self.architecture = facts.get("architecture")
        self.is_pretrained = facts.get("network") == "pretrained"
        self.others_were_tried = bool(facts.get("tried"))
        self.backbone = facts.get("backbone") or ""
        shape: Sequence[int] = facts.get("image_shape") or (0, 0, 0)
        self.input_px, self.channels = shape[0], shape[2]
        self.source_px = facts.get("source_px", 0)
        self.num_operations, self.has_dropout = facts.get("num_operations"), facts.get("has_dropout")


def _leak(figures: _Figures) -> Iterator[Advice]:
    share = figures.leaks.get("share") or 0
    failed = figures.checks.get("max_leaked_share", {}).get("verdict") == "fail"
    if not figures.leaks or (not failed and share < 0.01):
        return
    kinds = {"copies": "copies", "near_duplicates": "near-duplicates", "groups": "images of one burst or series"}
    counts = [f"{figures.leaks[key]:,} {words}" for key, words in kinds.items() if figures.leaks.get(key)]
    conflicts = figures.leaks.get("label_conflicts")
    counts += [f"{conflicts:,} images with two labels"] if conflicts else []
    yield Advice(
        "leak",
        f"{percent(share)} of val and test are in another split too ({', '.join(counts)}), so the accuracy is not "
        "that on new images: take them out, or give one folder without splits and let the pipeline split it",
        math.inf,
    )


def _wrong_labels(figures: _Figures) -> Iterator[Advice]:
    share = figures.num_wrong / figures.num_judged if figures.num_judged else 0
    yield Advice(
        "wrong labels",
        f"{figures.num_wrong:,} or more of {figures.num_judged:,} labels look wrong: go through suspects.csv (the "
        "report shows the first) and correct them in the source",
        100 * share,
    )


def _alike(figures: _Figures) -> Iterator[Advice]:
    """The two classes that are most often taken for each other, and others that stand out among the pairs."""
    # Both directions of a pair in one number, above the diagonal.
    wrong = np.triu(figures.confusion + figures.confusion.T, 1)
    num_pairs, total = len(wrong) * (len(wrong) - 1) // 2, int(wrong.sum())
    if num_pairs < 2 or not total:  # the only pair of two classes says nothing
        return
    # Twice as often as pairs are on average; of few pairs, most of the wrong answers.
    least = max(_LEAST_CONFUSED, min(0.6, 2 / num_pairs) * total)
    pairs = sorted(np.argwhere(wrong >= least).tolist(), key=lambda pair: -wrong[tuple(pair)])[:_SHOWN_PAIRS]
    if not pairs:
        return
    counts = [int(wrong[one, other]) for one, other in pairs]
    named = ", ".join(
        f"{figures.names[one]!r} and {figures.names[other]!r}" + (f" ({count:,})" if len(pairs) > 1 else "")
        for (one, other), count in zip(pairs, counts, strict=True)
    )
    # Labels that are wrong at random spread over all pairs alike.
    by_chance = figures.num_wrong / num_pairs * len(pairs)
    yield Advice(
        "look-alike classes",
        f"{sum(counts):,} of {total:,} wrong answers are between {named}: make them one class, add images that show "
        "the difference, or check how they were labelled",
        100 * max(0.0, sum(counts) - by_chance) / figures.num_judged,
    )


def _few_photos(figures: _Figures) -> Iterator[Advice]:
    """More training images."""
    of_class = figures.num_train / max(1, len(figures.names))
    factor = max(2.0, ENOUGH_CLASS_IMAGES / max(1.0, of_class))
    undecided = [check for check in figures.checks.values() if check["verdict"] == "undecided"]
    points = figures.gap * (1 - factor**-_GROWTH) + (figures.half_width if undecided else 0)
    if of_class >= 10 * ENOUGH_CLASS_IMAGES and not undecided:
        return
    # The gate has computed how many would decide; otherwise, as many as were assumed above.
    wanted = max(figures.num_train, round(factor - 1) * figures.num_train)
    decisive = [part for check in undecided for part in _more_photos(check) if _is_feasible(check, figures)]
    # Two digits: the estimate is no better.
    more = next(iter(decisive), f"about {round(wanted, 2 - len(str(wanted))):,} more photos would narrow the gap")
    yield Advice("few photos", f"{more}; now {of_class:,.0f} of each class are trained on, on average", points)


def _more_photos(check: Mapping[str, Any]) -> Iterator[str]:
    """The part of a check's reason that says how many more photos it needs."""
    yield from (part for part in check["reason"].split("; ") if "more photos would decide" in part)
    yield from (part for part in check["reason"].split(": ")[-1:] if part.startswith("add about "))


def _is_feasible(check: Mapping[str, Any], figures: _Figures) -> bool:
    """False if ten times as many images would not decide: then the figure lies on the limit."""
    needed: int = check.get("images_to_decide") or 0
    return needed <= 10 * int(figures.num_judged)


def _small_images(figures: _Figures) -> Iterator[Advice]:
    """A larger input, where the files have it; or larger photos."""
    if not figures.input_px or not figures.source_px:
        return
    shrunk = figures.source_px / figures.input_px
    if shrunk >= 1.5 and figures.input_px < 224:
        size = int(min(224, figures.source_px))
        yield Advice(
            "small input",
            f"the network sees {figures.input_px} px of files that have {figures.source_px} px: "
            f"--set preprocess.size_px={size}",
            _lost_by_size(figures.input_px) * figures.error,
        )
    # Digits and the like are gray and small, and readable.
    elif figures.source_px < (16 if figures.channels == 1 else 64):
        yield Advice(
            "small images",
            f"the files have only {figures.source_px} px: photos of 128 px or more show details, and let the features "
            "of a pretrained network work",
            _lost_by_size(figures.source_px) * figures.error,
        )


def _lost_by_size(px: float) -> float:
    """Share of the errors that larger images would not make."""
    return float(np.interp(px, [8, 24, 32, 64, 128, 224], [0.65, 0.6, 0.5, 0.35, 0.1, 0.0]))


def _pretrained(figures: _Figures) -> Iterator[Advice]:
    if figures.architecture and not figures.is_pretrained and figures.source_px >= 64 and figures.channels == 3:
        yield Advice(
            "from scratch",
            f"{figures.architecture} is trained from random weights on photos: --set train.architecture=auto takes a "
            "network that is pretrained on a million of them",
            _PRETRAINED * figures.error,
        )


def _fixed_features(figures: _Figures) -> Iterator[Advice]:
    """Fine-tuning, where `auto` left it out for the time's sake."""
    if figures.architecture != "frozen" or figures.others_were_tried or figures.backbone.endswith(ONNX):
        return
    if figures.num_train >= FINETUNED_IMAGES:
        yield Advice(
            "fixed features",
            "only the last layer is trained: --set train.architecture=finetune trains all layers, in minutes instead "
            "of seconds; where the shape alone counts, try --set preprocess.network=scratch",
            _FINETUNED * figures.error,
        )


def _too_many_epochs(figures: _Figures) -> Iterator[Advice]:
    best, last = figures.curve.get("best_epoch"), figures.curve.get("num_epochs", 0)
    if not best or figures.patience or figures.curve.get("gap_opens_epoch") is None:
        return
    # Fractions at the parting and at the last epoch.
    at_best, at_last = figures.parting.get("val") or (0, 0)
    yield Advice(
        "too many epochs",
        f"validation was best in epoch {best} of {last}: --set train.epochs={best}, or --set train.patience=3",
        _STOPPING * figures.gap + 100 * max(0.0, at_best - at_last),
    )


def _overfits(figures: _Figures) -> Iterator[Advice]:
    """Regularisation; the second remedy takes its share of what the first one leaves."""
    if figures.architecture in (None, "frozen"):  # its head's penalty is chosen by cross-validation
        return
    left = figures.gap
    if figures.num_operations == 0:
        yield Advice(
            "no augmentation",
            "the training images are not augmented: give augment.operations, such as translate, rotate and scale, and "
            "flip where a mirror image means the same",
            _AUGMENTATION * left,
        )
        left *= 1 - _AUGMENTATION
    if not figures.has_dropout and not figures.is_pretrained:
        yield Advice(
            "no dropout", "the network has no dropout: add {type: dropout} before its last layer", _DROPOUT * left
        )
        left *= 1 - _DROPOUT
    if figures.weight_decay < 0.1:
        yield Advice(
            "little weight decay",
            f"train.weight_decay is {figures.weight_decay:g}: try {max(0.1, 10 * figures.weight_decay):g}",
            # Where other remedies are in use, this one buys less: together they took 5.7 points to 0.7.
            (_WEIGHT_DECAY if figures.num_operations == 0 else 0.2) * left,
        )


def _underfits(figures: _Figures) -> Iterator[Advice]:
    """Longer training, where validation still gains at the end and training images are not learned either."""
    best, last = figures.curve.get("best_epoch"), figures.curve.get("num_epochs", 0)
    if last and best == last and figures.train_error > max(5.0, figures.gap):
        yield Advice(
            "too few epochs",
            f"validation was best in the last of {last} epoch{'s' if last > 1 else ''} and "
            f"{figures.train_error:.1f} % of the training images are not learned: "
            f"--set train.epochs={2 * last}, or a larger network",
            (0.9 if last <= 2 else 0.25) * figures.train_error,
        )


def _weak_class(figures: _Figures) -> Iterator[Advice]:
    support = figures.confusion.sum(axis=1)
    known = np.flatnonzero(support)
    if len(known) < 2:
        return
    recalls = figures.confusion.diagonal()[known] / support[known]
    weakest = known[recalls.argmin()]
    others = np.median(np.delete(support[known], recalls.argmin()))
    missing = np.median(recalls) - recalls.min()
    if support[weakest] <= others / 2 and missing > 0:
        yield Advice(
            "uneven classes",
            f"{figures.names[weakest]!r} has {support[weakest]:,} judged images, half of other classes or less, and a "
            f"recall of {percent(recalls.min())}: add images of it, or --set train.class_weights=balanced",
            50 * float(missing) / len(known),
        )


_CAUSES = (
    _leak,
    _wrong_labels,
    _alike,
    _few_photos,
    _small_images,
    _pretrained,
    _fixed_features,
    _too_many_epochs,
    _overfits,
    _underfits,
    _weak_class,
)


def in_lines(advice: Sequence[Mapping[str, Any]]) -> list[str]:
    """Number the advice, a line each."""
    return [f"{number}. {one['cause']}: {one['text']}" for number, one in enumerate(advice, start=1)]
