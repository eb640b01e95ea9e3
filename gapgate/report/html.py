"""The evaluation as one self-contained HTML file: images as data URIs, styles inside, no script and no request."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from gapgate.evidence.measures.learning_curve import Parting, in_words
from gapgate.evidence.measures.metrics import finite
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
)
MAX_DATA_URI_BYTES = 6_000_000
"""Largest image in the report, in bytes; a larger one (a contact sheet of many classes) stays a file of its own."""

FIGURE_DPI = 144
"""Resolution of the figures: higher than a page's 96 pixels an inch, for phones and print."""
CSS_PIXELS_PER_PIXEL = 96 / FIGURE_DPI


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
) -> str:
    """Render the report of an evaluation and its verdict as HTML.

    Args:
        evaluation: content of `evaluation.json`.
        figures: folder of the evaluation's figures; missing figures are left out.
        certificate: content of `certificate.json`.
        advice: rows of `gapgate.evidence.advice.advise`.
    """
    pictures = {name: _picture(figures / f"{name}.png", figures / "dark" / f"{name}.png") for name in FIGURES}
    inputs = evaluation.get("inputs") or {}
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            evaluation=evaluation,
            data=evaluation.get("data") or {"notes": [], "set_aside": {"num_images": 0, "rows": []}},
            certificate=certificate,
            advice=advice,
            pictures=pictures,
            gap_words=gap_in_words(evaluation["gap"]),
            curve_words=_curve_words(evaluation, inputs, certificate),
            facts=list(flatten(evaluation.get("facts") or {})),
            settings={
                name: list(flatten((value or {}).get("settings") or {}))
                for name, value in [*sorted(inputs.items()), ("evaluation", {"settings": evaluation.get("settings")})]
            },
            digests=list(_digests(inputs)),
        )
    )


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
        lead = "No difference between training images and new ones is shown by this many images."
    return f"{lead} With {sure} confidence the true gap lies between {_signed(low)} and {_signed(high)} points."


def _curve_words(evaluation: Mapping[str, Any], inputs: Mapping[str, Any], certificate: Mapping[str, Any]) -> list[str]:
    """Describe the learning curves in sentences; the last one says so if their distance is what the gate rejects."""
    parts = evaluation.get("parting")
    found = parts and Parting(**parts)
    words = in_words(found, evaluation["learning_curve"], (inputs.get("model") or {}).get("settings") or {})
    failed = {check["name"] for check in certificate["checks"] if check["verdict"] == "fail"}
    if found and found.space_points > 0 and "max_gap_points" in failed:
        words.append("That space is the gap which the gate does not let through.")
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
    return environment


def _picture(light: Path, dark: Path) -> Picture | None:
    """Read an image in its light and dark version; None if it is missing or too large."""
    if not light.exists() or light.stat().st_size > MAX_DATA_URI_BYTES:
        return None
    scale = CSS_PIXELS_PER_PIXEL
    # A photograph has no dark version, and its pixels are shown one to one: only drawn figures are finer.
    if not dark.exists():
        dark, scale = light, 1
    with Image.open(light) as image:
        width, height = image.size
    return Picture(_data_uri(light), _data_uri(dark), round(width * scale), round(height * scale))


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


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
