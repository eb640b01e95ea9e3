"""The evaluation as one self-contained HTML file: images as data URIs, styles and one script inside, no request.

The page is whole without its script, which adds tooltips and a filter by class.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from gapgate.evidence.measures.learning_curve import Parting, in_words
from gapgate.evidence.measures.metrics import finite
from gapgate.report import charts, verdict
from gapgate.text import number, percent

TEMPLATES = Path(__file__).parent / "templates"
FIGURES = (
    "learning_curves",
    "confusion",
    "reliability",
    "worst_errors",
    "suspects",
    "looked_at",
    "filters",
    "feature_maps",
    "contact_sheet",
    "set_aside",
    "near_duplicates",
)
MAX_DATA_URI_BYTES = 6_000_000
"""Largest image in the report, in bytes; a larger one (a contact sheet of many classes) stays a file of its own."""

FIGURE_DPI = 144
"""Resolution of the figures: higher than a page's 96 pixels an inch, for phones and print."""
CSS_PIXELS_PER_PIXEL = 96 / FIGURE_DPI
_CHART_SIZE = {
    "width": charts.WIDTH,
    "height": charts.HEIGHT,
    "left": charts.LEFT,
    "right": charts.WIDTH - charts.RIGHT,
    "top": charts.TOP,
    "bottom": charts.HEIGHT - charts.BOTTOM,
}


_PHOTOGRAPHS = ("contact_sheet", "set_aside", "near_duplicates")
"""Pictures whose pixels are shown one to one; drawn figures are finer."""
_NO_DATA = {"notes": [], **{name: {"num_images": 0, "rows": []} for name in ("set_aside", "alike")}}
MAX_CONFUSION_CLASSES = 25
"""Largest number of classes for the confusion matrix as a table, whose cells lead to their images; a larger one is a
picture."""
MAX_LISTED_PAIRS = 20
"""Number of the most frequent mistakes that are listed below such a picture."""
MAX_GROUPS = 8
"""Number of pairs of classes whose mistakes are not folded away."""


@dataclass(frozen=True, slots=True)
class Picture:
    """Image of the page, as data URIs."""

    light: str
    """Image on a light page."""
    dark: str
    """Image on a dark page; the same as `light` for photographs."""
    width: int
    """Width in CSS pixels."""
    height: int
    """Height in CSS pixels."""


def render(
    evaluation: Mapping[str, Any],
    figures: Path,
    certificate: Mapping[str, Any],
    advice: Sequence[Mapping[str, Any]] = (),
    known: Mapping[str, str] | None = None,
) -> str:
    """Render the report of an evaluation and its verdict as HTML. Equal arguments give equal bytes.

    Args:
        evaluation: content of `evaluation.json`.
        figures: folder of the evaluation's figures; missing figures are left out.
        certificate: content of `certificate.json`.
        advice: rows of `gapgate.evidence.advice.advise`.
        known: lines of the head that the evaluation does not hold, such as the model's version, the run and the date.
    """
    pictures = {name: _picture(figures / f"{name}.png", figures / "dark" / f"{name}.png") for name in FIGURES}
    inputs = evaluation.get("inputs") or {}
    facts = evaluation.get("facts") or {}
    limits = {check["name"]: check.get("limit") for check in certificate["checks"]}
    is_folded = bool((evaluation.get("method") or {}).get("num_folds"))
    split_names = {"train": "train", "val": "validation", "test": "held out" if is_folded else "test"}
    train_name = "train (augmented)" if facts.get("num_operations") else "train"
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            evaluation=evaluation,
            data=_NO_DATA | (evaluation.get("data") or {}),
            certificate=certificate,
            advice=advice,
            pictures=pictures,
            identity=_identity(evaluation, known or {}),
            headline=verdict.headline(certificate),
            deciding=verdict.deciding(certificate),
            what_now=verdict.what_now(certificate),
            gap_words=gap_in_words(evaluation["gap"]),
            gap_strip=charts.gap_strip(evaluation["gap"], limits.get("max_gap_points")),
            accuracy_strip=charts.accuracy_strip(evaluation["accuracy"], split_names, limits.get("min_test_accuracy")),
            split_names=split_names,
            is_folded=is_folded,
            curve_words=_curve_words(evaluation, inputs, certificate),
            curves=charts.learning_curves(evaluation.get("curves") or [], evaluation.get("parting"), train_name),
            train_name=train_name,
            calibration=charts.calibration(evaluation["calibration"]["bins"]),
            mistakes=(mistakes := _mistakes(evaluation, figures)),
            linked_pairs={(pair.label, pair.predicted) for pair in mistakes},
            suspects=_suspects(evaluation, figures),
            looked_at=_looked_at(evaluation, figures),
            shares=_shares(evaluation["confusion"]),
            facts=[(path, value) for path, value in flatten(facts) if value],
            settings={
                name: list(flatten((value or {}).get("settings") or {}))
                for name, value in [*sorted(inputs.items()), ("evaluation", {"settings": evaluation.get("settings")})]
            },
            digests=list(_digests(inputs)),
        )
    )


@dataclass(frozen=True, slots=True)
class Pair:
    """Mistakes between two classes: the label's and the answer's."""

    label: int
    predicted: int
    count: int
    shown: Sequence[tuple[Mapping[str, Any], str]]
    """Mistakes with a picture, each with its data URI."""


def _mistakes(evaluation: Mapping[str, Any], figures: Path) -> list[Pair]:
    """Group the mistakes that have a picture by their pair of classes, the most frequent pair first."""
    of_pair: dict[tuple[int, int], list[tuple[Mapping[str, Any], str]]] = {}
    for one, picture in zip(evaluation.get("mistakes") or [], _thumbnails(figures / "mistakes"), strict=False):
        of_pair.setdefault((one["label"], one["predicted"]), []).append((one, picture))
    pairs = [Pair(*pair, evaluation["confusion"][pair[0]][pair[1]], shown) for pair, shown in of_pair.items()]
    return sorted(pairs, key=lambda pair: -pair.count)


def _suspects(evaluation: Mapping[str, Any], figures: Path) -> list[tuple[Mapping[str, Any], str]]:
    """List the labels in doubt that have a picture."""
    listed = (evaluation.get("suspects") or {}).get("images") or []
    doubted = [one for one in listed if one["confidence"] > one["self_confidence"]]
    return list(zip(doubted, _thumbnails(figures / "suspects"), strict=False))


def _looked_at(evaluation: Mapping[str, Any], figures: Path) -> list[tuple[Mapping[str, Any], list[str]]]:
    """List the explained mistakes, each with its image, its heat and its nearest training images."""
    pictures = iter(_thumbnails(figures / "looked_at"))
    # One after the other: the image, its heat, its nearest training images (`evaluation_figures.draw`).
    rows = [(one, list(islice(pictures, 2 + len(one["nearest"])))) for one in evaluation.get("looked_at") or []]
    return [(one, found) for one, found in rows if len(found) == 2 + len(one["nearest"])]


def _thumbnails(folder: Path) -> list[str]:
    return [_data_uri(path) for path in sorted(folder.glob("[0-9]*"))]


def _shares(counts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return each count of a confusion matrix as a whole percentage of its row."""
    return [[round(100 * count / (sum(row) or 1)) for count in row] for row in counts]


def _identity(evaluation: Mapping[str, Any], known: Mapping[str, str]) -> list[tuple[str, str]]:
    """List what the report is of: what is `known` besides, then the network, the data and their digests."""
    facts = evaluation.get("facts") or {}
    dataset, counts = facts.get("dataset") or {}, facts.get("num_images") or {}
    inputs = evaluation.get("inputs") or {}
    rows = dict(known)
    parameters = facts.get("num_parameters")
    network = [facts.get("architecture"), parameters and f"{parameters:,} parameters"]
    rows["network"] = ", ".join(filter(None, network))
    source = str(dataset.get("source") or "").rstrip("/").rpartition("/")[2]
    images = f"{sum(counts.values()):,} images of {len(evaluation['classes']):,} classes" if counts else ""
    rows["data"] = ", ".join(filter(None, [source, images]))
    rows["DVC hash"] = dataset.get("dvc_hash") or ""
    rows["data revision"] = dataset.get("revision") or ""
    rows["model digest"] = (inputs.get("model") or {}).get("digest", "")
    return [(name, text) for name, text in rows.items() if text]


def render_page(template: str, folder: Path, **content: Any) -> str:
    """Render another template with the pictures in `folder`, by name, and `content`."""
    pictures = {path.stem: _picture(path, folder / "dark" / path.name) for path in sorted(folder.glob("*.png"))}
    return _environment().get_template(template).render(pictures=pictures, **content)


def gap_in_words(gap: Mapping[str, Any]) -> str:
    """Explain the gap in two sentences to a reader without statistics."""
    points, low, high = gap["points"], gap["low"], gap["high"]
    sure = f"{gap['confidence_level'] * 100:g} %"
    if low > 0:
        lead = f"Of 100 images, the model gets about {points:.1f} fewer right when it has not been trained on them."
    elif high < 0:
        lead = "The model does better on new images than on those of its training; the test split may be easier."
    else:
        lead = "The figures show no difference between training images and new ones."
    return f"{lead} With {sure} confidence the true gap lies between {_signed(low)} and {_signed(high)} points."


def _curve_words(evaluation: Mapping[str, Any], inputs: Mapping[str, Any], certificate: Mapping[str, Any]) -> list[str]:
    """Describe the learning curves in sentences; the last one says so if their distance is what the gate rejects."""
    parts = evaluation.get("parting")
    found = parts and Parting(**parts)
    words = in_words(found, evaluation["learning_curve"], (inputs.get("model") or {}).get("settings") or {})
    failed = {check["name"] for check in certificate["checks"] if check["verdict"] == "fail"}
    if found and found.space_points > 0 and "max_gap_points" in failed:
        words.append("The gate measures that space after the training, on test and without augmentation: the gap.")
    return words


def flatten(content: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted path and the value of every leaf of JSON-able content; a list of plain values is one leaf."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from flatten(value, f"{path}.{key}" if path else str(key))
    elif isinstance(content, list) and any(isinstance(value, dict | list) for value in content):
        for index, value in enumerate(content):
            yield from flatten(value, f"{path}.{index}" if path else str(index))
    elif isinstance(content, list):
        # A thousand class names on one line would make the table unreadable.
        text = ", ".join(_plain(value) for value in content)
        yield path, text if len(text) <= 300 else f"{text[:300]}… ({len(content)} values)"
    else:
        yield path, _plain(content)


def _digests(inputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the digests of the inputs and of the artifacts that those were made from."""
    for name, value in sorted(inputs.items()):
        if value:
            yield name, value["digest"]
            for parent, digest in sorted((value.get("inputs") or {}).items()):
                yield f"{name} ← {parent}", digest


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,  # class names and ids come from the data set and may hold markup
        undefined=StrictUndefined,  # a misspelt figure raises an error instead of leaving a gap in the report
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "number": _number, "signed": _signed, "thousands": _thousands}
    environment.filters["code"] = _code
    environment.globals |= {"script": _script(), "script_hash": _script_hash(), "chart_size": _CHART_SIZE}
    environment.globals |= {"MAX_CONFUSION_CLASSES": MAX_CONFUSION_CLASSES, "MAX_GROUPS": MAX_GROUPS}
    environment.globals |= {"MAX_LISTED_PAIRS": MAX_LISTED_PAIRS}
    return environment


@cache
def _script() -> Markup:
    return Markup((TEMPLATES / "page.js").read_text())


def _script_hash() -> str:
    """Hash of the page's own script for its policy: no other script runs, whatever a class is called."""
    return "sha256-" + base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()


def _code(text: str) -> Markup:
    """Escape a text and set what stands between backticks as code."""
    parts = str(escape(text)).split("`")
    # Every second part stands between two backticks.
    return Markup("".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts)))


def _picture(light: Path, dark: Path) -> Picture | None:
    """Read an image in its light and dark version; None if it is missing or too large."""
    if not light.exists() or light.stat().st_size > MAX_DATA_URI_BYTES:
        return None
    if light.stem in _PHOTOGRAPHS:
        return _photograph(light, dark if dark.exists() else light)
    scale = CSS_PIXELS_PER_PIXEL if dark.exists() else 1
    dark = dark if dark.exists() else light
    with Image.open(light) as image:
        width, height = image.size
    return Picture(_data_uri(light), _data_uri(dark), round(width * scale), round(height * scale))


def _photograph(light: Path, dark: Path) -> Picture:
    """Read a sheet of photographs, whose pixels are shown one to one; as JPEG, which is a tenth of the size."""
    sources = []
    for path in (light, dark):
        with Image.open(path) as image:
            size, data = image.size, BytesIO()
            image.convert("RGB").save(data, "JPEG", quality=88)
        sources.append("data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode())
    return Picture(sources[0], sources[1], *size)


def _data_uri(path: Path) -> str:
    kind = "jpeg" if path.suffix == ".jpg" else "png"
    return f"data:image/{kind};base64," + base64.b64encode(path.read_bytes()).decode()


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else f"{value:,}" if isinstance(value, int) else str(value)


def _percent(value: float | None, decimals: int = 1) -> str:
    """Format a fraction as `91.6 %`."""
    return "–" if value is None or finite(value) is None else percent(value, decimals)


def _number(value: float | None, decimals: int = 3) -> str:
    return "–" if value is None or finite(value) is None else f"{value:.{decimals}f}"


def _signed(value: float | None) -> str:
    """Format points, with a true minus sign and no negative zero."""
    return "–" if value is None else number(value)


def _thousands(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
