"""The files of a sweep: `sweep.html` for a reader, `sweep.json` and `sweep.csv` for programs, and its figures."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from gapgate import artifacts
from gapgate.report.drawing import Theme, save
from gapgate.report.html import render_page
from gapgate.text import number, shortened
from pipelines.trials.sweep import FIGURES, Axis, Cell, Sweep

TITLES = {"val_accuracy": "accuracy on val", "gap_points": "gap between train and test, in points"}
_MAX_LABEL_CHARS = 24
_MAX_CELLS_WITH_TEXT = 150


def write(sweep: Sweep, folder: Path, command: str) -> list[Path]:
    """Write all files into `folder`, over those of an earlier report, and return those to keep with the MLflow run.

    Args:
        command: the `gapgate run` command with the best cell's settings.
    """
    drawings = folder / "figures"
    draw = draw_heat_map if len(sweep.axes) == 2 else draw_values
    for figure in TITLES:
        draw(drawings, sweep, figure)
    page = render_page("sweep.html.j2", drawings, sweep=sweep, titles=TITLES, shown=shown, command=command)
    artifacts.write_text(folder / "sweep.html", page)
    artifacts.write_json(folder / "sweep.json", as_json(sweep) | {"command": command})
    artifacts.write_text(folder / "sweep.csv", as_csv(sweep))
    names = ("sweep.html", "sweep.json", "sweep.csv")
    return [*(folder / name for name in names), *(drawings / f"{name}.png" for name in TITLES)]


def shown(cell: Cell, figure: str) -> str:
    """A figure of a cell as text, with its standard deviation over several seeds."""
    mean, spread = cell.mean(figure), cell.spread(figure)
    scale, unit = (1, "") if figure == "gap_points" else (100, " %")
    text = number(mean * scale)
    return text + unit if spread is None else f"{text} ± {spread * scale:.1f}{unit}"


def as_json(sweep: Sweep) -> dict[str, Any]:
    """The sweep as JSON content: axes, cells with their figures, and the best cell."""
    return {
        "over": [{"name": axis.name, "values": list(axis.values)} for axis in sweep.axes],
        "num_seeds": sweep.num_seeds,
        "best": sweep.overrides(sweep.best),
        "cells": [_facts(sweep, cell) for cell in sweep.cells],
    }


def as_csv(sweep: Sweep) -> str:
    """The sweep as CSV text: a header, and a line for each cell."""
    table = io.StringIO()
    names = [axis.name for axis in sweep.axes]
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow([*names, *FIGURES, "failure"])
    for cell in sweep.cells:
        means = [cell.mean(name) for name in FIGURES] if cell in sweep.done else [""] * len(FIGURES)
        lines.writerow([*cell.values, *means, cell.failure])
    return table.getvalue()


def draw_heat_map(folder: Path, sweep: Sweep, figure: str) -> None:
    """Draw a heat map, with a square for each cell in the colour of its figure; the best cell on val has a frame."""
    rows, columns = sweep.axes
    shape = len(rows.values), len(columns.values)
    values = _values(sweep, figure).reshape(shape)
    share = _share(values)
    has_text = values.size <= _MAX_CELLS_WITH_TEXT
    best = divmod(sweep.cells.index(sweep.best), shape[1])

    def paint(drawn: Figure, theme: Theme) -> None:
        axes = drawn.subplots()
        colour = theme.blue if figure == "val_accuracy" else theme.orange
        colours = LinearSegmentedColormap.from_list("share", [theme.surface, colour])
        axes.imshow(share, cmap=colours, vmin=0, vmax=1, aspect="auto")
        axes.grid(False)
        axes.tick_params(length=0)
        _name_columns(axes, columns)
        axes.set_yticks(range(shape[0]), _labels(rows))
        axes.set_ylabel(rows.name)
        axes.set_title(TITLES[figure], loc="left")
        for index, cell in enumerate(sweep.cells) if has_text else ():
            row, column = divmod(index, shape[1])
            # From about half of the colour map on, the theme's ink does not stand out.
            ink = theme.surface if share[row, column] > 0.55 else theme.ink
            axes.text(column, row, _text(sweep, cell, figure), ha="center", va="center", fontsize=8, color=ink)
        axes.add_patch(
            Rectangle((best[1] - 0.47, best[0] - 0.47), 0.94, 0.94, fill=False, linewidth=2, color=theme.ink)
        )

    width, height = max(3.4, 1.05 * shape[1] + 1.6), max(2.2, 0.75 * shape[0] + 1.2)
    save(folder, figure, (min(width, 13), min(height, 13)), paint)


def draw_values(folder: Path, sweep: Sweep, figure: str) -> None:
    """Draw the figure over the values of the only axis, with intervals; the best cell on val has a filled marker."""
    axis = sweep.axes[0]
    values = _values(sweep, figure)
    places = np.arange(len(values))

    def paint(drawn: Figure, theme: Theme) -> None:
        axes = drawn.subplots()
        colour = theme.blue if figure == "val_accuracy" else theme.orange
        # A line between categories, such as optimizers, would show values that do not exist.
        if all(map(_is_number, axis.values)):
            axes.plot(places, values, color=colour, linewidth=1)
        for place, cell in zip(places, sweep.cells, strict=True):
            _mark(axes, int(place), cell, figure, colour, theme.surface if cell is not sweep.best else colour)
        if figure == "val_accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        _name_columns(axes, axis)
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.set_title(TITLES[figure], loc="left")

    save(folder, figure, (min(max(4.2, 0.8 * len(values) + 1.6), 13), 2.9), paint)


def _mark(axes: Axes, place: int, cell: Cell, figure: str, colour: str, fill: str) -> None:
    if cell.failure:
        axes.text(place, 0.04, "failed", transform=axes.get_xaxis_transform(), ha="center", fontsize=8)
        return
    low, high = cell.interval(figure)
    axes.vlines(place, low, high, color=colour, linewidth=3, alpha=0.35)
    axes.plot(place, cell.mean(figure), "o", color=colour, markerfacecolor=fill, markersize=7)


def _text(sweep: Sweep, cell: Cell, figure: str) -> str:
    if cell.failure:
        return "failed"
    lines = [shown(cell, figure).replace(" ± ", "\n± ")]
    if figure == "val_accuracy":
        lines.append(f"gap {shown(cell, 'gap_points')}")
    return "\n".join([*lines, "best on val"] if cell is sweep.best else lines)


def _values(sweep: Sweep, figure: str) -> NDArray[np.float64]:
    """The figure of each cell in order, (cells,) float64; NaN for a failed cell."""
    return np.array([np.nan if cell.failure else cell.mean(figure) for cell in sweep.cells])


def _share(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale values to 0.08 (least) to 0.92 (greatest), so that the colour of every cell differs from an empty one's."""
    low, high = np.nanmin(values), np.nanmax(values)
    return 0.08 + 0.84 * (values - low) / ((high - low) or 1.0)


def _name_columns(axes: Axes, axis: Axis) -> None:
    labels = _labels(axis)
    axes.set_xticks(range(len(labels)), labels)
    if max(map(len, labels)) > 8:
        for label in axes.get_xticklabels():
            label.set(rotation=30, ha="right", rotation_mode="anchor")
    axes.set_xlabel(axis.name)


def _labels(axis: Axis) -> list[str]:
    return [shortened(value, _MAX_LABEL_CHARS) for value in axis.values]


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _facts(sweep: Sweep, cell: Cell) -> dict[str, Any]:
    facts: dict[str, Any] = {"set": sweep.overrides(cell), "failure": cell.failure}
    if cell.failure:
        return facts
    for name in FIGURES:
        facts[name] = {"mean": cell.mean(name), "standard_deviation": cell.spread(name)}
    facts["trials"] = [
        {
            "seed": trial.settings.train.seed,
            "verdict": trial.verdict,
            "model": trial.artifacts["model"].digest,
            "evaluation": trial.artifacts["evaluation"].digest,
            **trial.training,
        }
        for trial in cell.trials
    ]
    return facts
