"""The plots of an evaluation, each drawn twice: `NAME.png` on white and `dark/NAME.png` on near-black.

matplotlib's object interface only: pyplot is slow to import and keeps global state. The files hold no date and no
version, so equal figures are equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray

from gapgate.inner_layers import FeatureMaps, stretched
from gapgate.report import FIGURE_DPI

FONT = "DejaVu Sans"
"""Comes with matplotlib, so the same text has the same pixels everywhere."""
MAX_NUMBERED_CLASSES = 20
"""A confusion matrix of more classes shows colours alone."""
MAX_LABELLED_CLASSES = 100
"""A confusion matrix of more classes has numbers on its axes instead of names."""
MAX_LABEL_CHARS = 20
MAX_FILTERS = 64
MAX_MAPS = 12


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours as `#rrggbb`; the accents keep a contrast of 3:1 or more with their surface."""

    surface: str
    ink: str
    muted: str
    line: str
    blue: str
    orange: str


LIGHT = Theme(surface="#ffffff", ink="#1a1d21", muted="#5c6570", line="#d9dee4", blue="#1f6feb", orange="#c2410c")
DARK = Theme(surface="#16191d", ink="#e6e9ed", muted="#9aa4af", line="#333a42", blue="#58a6ff", orange="#fb923c")


@dataclass(frozen=True, slots=True)
class Tile:
    """An image of side 1 whose upper left corner lies at (left, top), y downwards."""

    left: float
    top: float
    pixels: NDArray[Any]
    """(H, W), (H, W, 1) or (H, W, 3)"""


def learning_curves(folder: Path, history: Sequence[Mapping[str, Any]], curve: Mapping[str, Any]) -> None:
    """Loss and accuracy over the epochs, with the epoch where the validation loss turned. Nothing without a history."""
    if not history:
        return

    def paint(figure: Figure, theme: Theme) -> None:
        loss, accuracy = figure.subplots(1, 2)
        for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
            _curves(axes, history, name, theme)
            if (opens := curve.get("gap_opens_epoch")) is not None:
                turn = f"validation loss turns (epoch {opens})"
                axes.axvline(opens, color=theme.muted, linewidth=1, linestyle=(0, (4, 3)), label=turn)
        accuracy.yaxis.set_major_formatter(PercentFormatter(1))
        figure.legend(*loss.get_legend_handles_labels(), loc="outside upper right", ncols=3)

    _save(folder, "learning_curves", (8.4, 3.1), paint)


def confusion(folder: Path, counts: NDArray[np.int64], class_names: Sequence[str]) -> None:
    """Counts (K, K), rows true and columns predicted, coloured by the share of the true class."""
    num_classes = len(class_names)
    side = float(np.clip(0.42 * num_classes + 2.2, 4.2, 13))
    font_size = float(np.clip(0.72 * (side - 2) * 72 / num_classes, 4.5, 9))
    with np.errstate(invalid="ignore"):
        shares = np.nan_to_num(counts / counts.sum(axis=1, keepdims=True))
    names = [label_text(name, index) for index, name in enumerate(class_names)]

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        colours = LinearSegmentedColormap.from_list("share", [theme.surface, theme.blue])
        axes.imshow(shares, cmap=colours, vmin=0, vmax=1)
        axes.set(xlabel="predicted", ylabel="true")
        axes.grid(False)
        if num_classes <= MAX_LABELLED_CLASSES:
            axes.set_xticks(range(num_classes), names, rotation=90, fontsize=font_size)
            axes.set_yticks(range(num_classes), names, fontsize=font_size)
        axes.tick_params(length=0)
        if num_classes <= MAX_NUMBERED_CLASSES:
            for row, column in np.argwhere(counts):
                ink = theme.surface if shares[row, column] > 0.5 else theme.ink
                number = axes.text(
                    column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=8, color=ink
                )
                number.set_in_layout(False)  # lies inside the axes; measuring 400 of them takes seconds

    _save(folder, "confusion", (side, side), paint)


def reliability(folder: Path, bins: Sequence[Mapping[str, Any]], ece: float) -> None:
    """Accuracy against confidence, with the images in each bin below."""
    filled = [b for b in bins if b["num_images"]]
    centres = [(b["low"] + b["high"]) / 2 for b in filled]
    width = (bins[0]["high"] - bins[0]["low"]) * 0.92

    def paint(figure: Figure, theme: Theme) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        upper.bar(centres, [b["accuracy"] for b in filled], width, color=theme.blue, label="accuracy")
        upper.plot([0, 1], [0, 1], color=theme.muted, linewidth=1, linestyle=(0, (4, 3)), label="perfect calibration")
        upper.scatter(
            [b["confidence"] for b in filled],
            [b["confidence"] for b in filled],
            s=14,
            color=theme.orange,
            zorder=3,
            label="mean confidence",
        )
        upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
        lower.bar(centres, [b["num_images"] for b in filled], width, color=theme.muted)
        lower.set(xlabel="confidence", ylabel="images", yscale="log")
        lower.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        lower.yaxis.set_minor_formatter(NullFormatter())
        upper.set_title(f"expected calibration error {ece:.3f}", loc="left")
        figure.legend(loc="outside right upper")
        for axis in (upper.yaxis, lower.xaxis):
            axis.set_major_formatter(PercentFormatter(1))

    _save(folder, "reliability", (6.8, 4.4), paint)


def worst_errors(
    folder: Path,
    images: NDArray[np.uint8],
    labels: NDArray[np.int32],
    predicted: NDArray[np.int32],
    confidence: NDArray[np.float32],
    class_names: Sequence[str],
) -> None:
    """Mistaken images (n, H, W, C), most confident first, in rows of 8. Nothing without mistakes."""
    if len(images) == 0:
        return
    tiles = [Tile(index % 8 * 1.12, index // 8 * 1.5, image) for index, image in enumerate(images)]

    def paint(figure: Figure, theme: Theme) -> None:
        axes = _mosaic(figure, tiles, 1.0, {"cmap": "gray", "vmin": 0, "vmax": 255})
        for tile, label, answer, share in zip(tiles, labels, predicted, confidence, strict=True):
            said, true = label_text(class_names[answer], answer, 12), label_text(class_names[label], label, 14)
            axes.text(tile.left, tile.top + 1.04, f"{said} {share:.0%}", va="top", fontsize=7, color=theme.orange)
            axes.text(tile.left, tile.top + 1.21, f"is {true}", va="top", fontsize=7, color=theme.ink)

    _save(folder, "worst_errors", _mosaic_size(tiles, 1.0, below=0.38), paint)


def filters(folder: Path, weights: NDArray[np.float32]) -> None:
    """The first convolution's weights (F, C, kh, kw): colour for three channels, else their mean over channels."""
    shown = weights[:MAX_FILTERS]
    largest = float(np.abs(shown).max()) or 1.0
    pixels = shown.transpose(0, 2, 3, 1) / largest / 2 + 0.5 if shown.shape[1] == 3 else shown.mean(axis=1) / largest
    tiles = [Tile(index % 16 * 1.12, index // 16 * 1.12, tile) for index, tile in enumerate(pixels)]

    def paint(figure: Figure, theme: Theme) -> None:
        signs = LinearSegmentedColormap.from_list("sign", [theme.orange, theme.surface, theme.blue])
        _mosaic(figure, tiles, 0.45, {"cmap": signs, "vmin": -1, "vmax": 1})

    _save(folder, "filters", _mosaic_size(tiles, 0.45), paint)


def feature_maps(folder: Path, image: NDArray[np.uint8], layers: Sequence[FeatureMaps]) -> None:
    """An image (H, W, C) and up to 12 maps of it after each early layer, a row a layer. Nothing without layers."""
    if not layers:
        return
    rows = [("image", (image[None] / 255).astype(np.float32))]
    rows += [
        (f"{layer.layer}, {'×'.join(map(str, layer.maps.shape))}", stretched(layer.maps[:MAX_MAPS])) for layer in layers
    ]
    tiles = [Tile(i * 1.06, row * 1.4, m) for row, (_, maps) in enumerate(rows) for i, m in enumerate(maps)]

    def paint(figure: Figure, theme: Theme) -> None:
        axes = _mosaic(figure, tiles, 0.66, {"cmap": "gray", "vmin": 0, "vmax": 1}, above=0.35)
        for row, (title, _) in enumerate(rows):
            axes.text(0, row * 1.4 - 0.06, title, va="bottom", fontsize=8, color=theme.muted)

    _save(folder, "feature_maps", _mosaic_size(tiles, 0.66, above=0.35), paint)


def label_text(name: str, index: int, max_chars: int = MAX_LABEL_CHARS) -> str:
    """A class name that can be drawn: shortened, and `#index` where the font lacks a letter of it."""
    if any(ord(char) not in _glyphs() for char in name):
        return f"#{index}"
    return name if len(name) <= max_chars else name[: max_chars - 1] + "…"


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(FONT)).get_charmap()) - {0x0A, 0x0D}


def _curves(axes: Axes, history: Sequence[Mapping[str, Any]], name: str, theme: Theme) -> None:
    epochs = [epoch.get("epoch", index + 1) for index, epoch in enumerate(history)]
    for side, label, colour in (("train", "train (augmented)", theme.blue), ("val", "validation", theme.orange)):
        values = [epoch.get(f"{side}_{name}") for epoch in history]
        heights = [float("nan") if value is None else float(value) for value in values]
        axes.plot(epochs, heights, color=colour, label=label, marker="o" if len(epochs) <= 30 else "", markersize=3)
    axes.set_title(name, loc="left")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _mosaic(
    figure: Figure, tiles: Sequence[Tile], side_inches: float, colours: Mapping[str, Any], *, above: float = 0.0
) -> Axes:
    """All tiles in one Axes that fills the figure, since a hundred Axes take seconds; one unit is one tile's side."""
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for tile in tiles:
        is_gray = tile.pixels.ndim == 3 and tile.pixels.shape[-1] == 1
        extent = (tile.left, tile.left + 1, tile.top + 1, tile.top)
        axes.imshow(tile.pixels.squeeze(-1) if is_gray else tile.pixels, extent=extent, aspect="auto", **colours)
    width, height = figure.get_size_inches() / side_inches
    axes.set(xlim=(0, width), ylim=(height - above, -above))
    return axes


def _mosaic_size(
    tiles: Sequence[Tile], side_inches: float, *, above: float = 0.0, below: float = 0.0
) -> tuple[float, float]:
    """Width and height in inches that hold the tiles, with `above` and `below` tile sides of room for text."""
    right = max(tile.left for tile in tiles) + 1.02
    bottom = max(tile.top for tile in tiles) + 1.02
    return right * side_inches, (above + bottom + below) * side_inches


def _save(folder: Path, name: str, size_inches: tuple[float, float], paint: Callable[[Figure, Theme], None]) -> None:
    for theme, path in ((LIGHT, folder / f"{name}.png"), (DARK, folder / "dark" / f"{name}.png")):
        path.parent.mkdir(parents=True, exist_ok=True)
        with rc_context(_style(theme)):
            figure = Figure(size_inches, dpi=FIGURE_DPI, layout="constrained")
            FigureCanvasAgg(figure)
            paint(figure, theme)
            figure.savefig(path, metadata={"Software": None})


def _style(theme: Theme) -> dict[Any, Any]:
    return {
        "font.family": FONT,
        "font.size": 9,
        "text.parse_math": False,  # a class may be named $5
        "text.color": theme.ink,
        "axes.titlesize": 9,
        "axes.titleweight": "bold",
        "axes.labelcolor": theme.muted,
        "axes.edgecolor": theme.line,
        "axes.facecolor": theme.surface,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.line,
        "grid.linewidth": 0.6,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "figure.facecolor": theme.surface,
        "savefig.facecolor": theme.surface,
        "lines.linewidth": 1.8,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "image.interpolation": "nearest",
    }
