"""The plots of an evaluation, each drawn twice: `NAME.png` on white and `dark/NAME.png` on near-black."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray

from gapgate.evidence.measures.calibration import FEW_IMAGES
from gapgate.evidence.measures.learning_curve import WORDS, Parting, parting
from gapgate.evidence.measures.mistakes import NUM_NEAREST, Mistake
from gapgate.onnx.inner_layers import FeatureMaps, stretched
from gapgate.report.drawing import GRAY, Theme, Tile, in_rows, label_text, mosaic, mosaic_size, save, scale
from gapgate.text import percent

MAX_NUMBERED_CLASSES = 20
"""Largest number of classes for numbers in the cells of a confusion matrix; with more it shows colours only."""
MAX_LABELLED_CLASSES = 100
"""Largest number of classes for names on the axes of a confusion matrix; with more the axes have numbers."""
MAX_FILTERS = 64
"""Largest number of filters in the picture."""
MAX_MAPS = 8
"""Largest number of feature maps in a row."""


def learning_curves(
    folder: Path, history: Sequence[Mapping[str, Any]], curve: Mapping[str, Any], *, is_augmented: bool = False
) -> None:
    """Draw loss and accuracy over the epochs; nothing without a history.

    The legend says so if train `is_augmented`. The epoch where train and validation part is marked, and the space
    between them from there on is shaded.
    """
    if not history:
        return
    parts = parting(history, curve)

    def paint(figure: Figure, theme: Theme) -> None:
        loss, accuracy = figure.subplots(1, 2)
        for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
            labels = {"train": "train (augmented)" if is_augmented else "train", "val": "validation"}
            train, val = (_curve(axes, history, f"{side}_{name}", labels[side], theme) for side in labels)
            if parts:
                _mark(axes, parts, train, val, theme)
        if parts and parts.space_points > 0:
            _measure(accuracy, parts, theme)
        accuracy.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        figure.legend(*loss.get_legend_handles_labels(), loc="outside upper right", ncols=3)

    save(folder, "learning_curves", (8.4, 3.2), paint)


def confusion(folder: Path, counts: NDArray[np.int64], class_names: Sequence[str]) -> None:
    """Draw the confusion matrix: counts (K, K), rows true and columns predicted, coloured by share of the row."""
    num_classes = len(class_names)
    side = float(np.clip(0.42 * num_classes + 2.2, 4.2, 13))
    # 72 points an inch: the height of a row is about (side − 2 for the labels) / K inches, and text takes 0.72 of it.
    font_size = float(np.clip(0.72 * (side - 2) * 72 / num_classes, 4.5, 9))
    # 0 / 0 in the row of a class without test images.
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
                # On a cell in more than half of the full blue, text in the page's colour has the better contrast.
                ink = theme.surface if shares[row, column] > 0.5 else theme.ink
                number = axes.text(
                    column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=8, color=ink
                )
                number.set_in_layout(False)  # the layout measures 400 numbers in seconds; they lie inside anyway

    save(folder, "confusion", (side, side), paint)


def reliability(folder: Path, bins: Sequence[Mapping[str, Any]], ece: float) -> None:
    """Draw accuracy against confidence, faint for bins of few images, and the number of images in each bin below."""
    filled = [b for b in bins if b["num_images"]]
    centres = [(b["low"] + b["high"]) / 2 for b in filled]
    width = (bins[0]["high"] - bins[0]["low"]) * 0.92

    def paint(figure: Figure, theme: Theme) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        faint = [0.35 if b["num_images"] < FEW_IMAGES else 1.0 for b in filled]
        for few, label in ((False, "accuracy"), (True, f"of fewer than {FEW_IMAGES} images")):
            some = [(c, b["accuracy"], a) for c, b, a in zip(centres, filled, faint, strict=True) if (a < 1) == few]
            if some:
                places, heights, (alpha, *_) = zip(*some, strict=True)
                upper.bar(places, heights, width, color=theme.blue, alpha=alpha, label=label)
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
        # A good model is sure of most images: on a linear axis the other bins would be flat.
        lower.set(xlabel="confidence", ylabel="images", yscale="log")
        lower.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        lower.yaxis.set_minor_formatter(NullFormatter())
        upper.set_title(f"expected calibration error {ece:.3f}", loc="left")
        figure.legend(loc="outside right upper")
        for axis in (upper.yaxis, lower.xaxis):
            axis.set_major_formatter(PercentFormatter(1, symbol=" %"))

    save(folder, "reliability", (6.8, 4.4), paint)


def worst_errors(
    folder: Path,
    images: NDArray[np.uint8],
    labels: NDArray[np.int32],
    predicted: NDArray[np.int32],
    confidence: NDArray[np.float32],
    class_names: Sequence[str],
    name: str = "worst_errors",
) -> None:
    """Draw images with wrong answers or labels, (n, H, W, C), in the given order, in rows of 8; nothing without any."""
    if len(images) == 0:
        return
    tiles = in_rows(list(images), 8, 1.5)

    def paint(figure: Figure, theme: Theme) -> None:
        axes = mosaic(figure, tiles, 1.0, GRAY)
        for tile, label, answer, share in zip(tiles, labels, predicted, confidence, strict=True):
            said, true = label_text(class_names[answer], answer, 12), label_text(class_names[label], label, 14)
            axes.text(
                tile.left, tile.top + 1.04, f"{said} {percent(share, 0)}", va="top", fontsize=7, color=theme.orange
            )
            axes.text(tile.left, tile.top + 1.21, f"is {true}", va="top", fontsize=7, color=theme.ink)

    save(folder, name, mosaic_size(tiles, 1.0, below=0.38), paint)


def filters(folder: Path, weights: NDArray[np.float32]) -> None:
    """Draw the first convolution's weights (F, C, kh, kw): in colour for three channels, else their channel mean."""
    # All filters have one scale, that of the largest weight, so that weak filters look weak.
    shown = weights[:MAX_FILTERS]
    largest = float(np.abs(shown).max()) or 1.0
    # (F, kh, kw, 3) in 0..1 with 0.5 for a weight of 0, or (F, kh, kw) in −1..1 for the two-coloured map.
    pixels = shown.transpose(0, 2, 3, 1) / largest / 2 + 0.5 if shown.shape[1] == 3 else shown.mean(axis=1) / largest
    tiles = in_rows(list(pixels), 16, 1.12)

    def paint(figure: Figure, theme: Theme) -> None:
        signs = LinearSegmentedColormap.from_list("sign", [theme.orange, theme.surface, theme.blue])
        mosaic(figure, tiles, 0.45, scale(signs, -1, 1))

    save(folder, "filters", mosaic_size(tiles, 0.45), paint)


def feature_maps(folder: Path, image: NDArray[np.uint8], layers: Sequence[FeatureMaps]) -> None:
    """Draw an image (H, W, C) and up to 8 of its feature maps in each layer, a row for each; nothing without layers."""
    if not layers:
        return
    rows = [(f"image {_size(image.shape)}", (image[None] / 255).astype(np.float32))]
    for layer in layers:
        channels, *sides = layer.maps.shape
        rows.append((f"{layer.layer} {_size((*sides, channels))}", stretched(layer.maps[:MAX_MAPS])))
    # In tile sides: 0.06 between tiles, and 0.34 between rows for a line of text.
    tiles = [Tile(i * 1.06, row * 1.34, m) for row, (_, maps) in enumerate(rows) for i, m in enumerate(maps)]

    def paint(figure: Figure, theme: Theme) -> None:
        axes = mosaic(figure, tiles, 0.72, scale("gray", 0, 1), above=0.35)
        for row, (title, _) in enumerate(rows):
            axes.text(0, row * 1.34 - 0.06, title, va="bottom", fontsize=8, color=theme.muted)

    save(folder, "feature_maps", mosaic_size(tiles, 0.72, above=0.35), paint)


def looked_at(folder: Path, mistakes: Sequence[Mistake], class_names: Sequence[str]) -> None:
    """Draw a row for each mistake: image, occlusion heat and nearest training images; nothing without mistakes."""
    if not mistakes:
        return
    # The neighbours start at 2.5, not 2.24: a wider space sets them apart from the image itself.
    columns = [0.0, 1.12, *(2.5 + 1.12 * place for place in range(NUM_NEAREST))]
    tiles = [
        Tile(left, row * 1.6, pixels)
        for row, mistake in enumerate(mistakes)
        # Not strict: a small training split has fewer neighbours than there are columns.
        for left, pixels in zip(columns, (mistake.image, mistake.heat, *mistake.nearest_images), strict=False)
    ]

    def paint(figure: Figure, theme: Theme) -> None:
        axes = mosaic(figure, tiles, 0.95, GRAY, above=0.3)
        for left, title in zip(columns, ("image", "what counted", "nearest training images"), strict=False):
            axes.text(left, -0.06, title, va="bottom", fontsize=8, color=theme.muted)
        for row, mistake in enumerate(mistakes):
            said, true = (label_text(class_names[index], index, 13) for index in (mistake.predicted, mistake.label))
            below = row * 1.6 + 1.04
            axes.text(0, below, f"{said} {percent(mistake.confidence, 0)}", va="top", fontsize=7, color=theme.orange)
            axes.text(0, below + 0.16, f"is {true}", va="top", fontsize=7, color=theme.ink)
            for left, label, similarity in zip(columns[2:], mistake.nearest_labels, mistake.similarities, strict=False):
                colour = theme.orange if label == mistake.predicted else theme.ink
                name = label_text(class_names[label], label, 13)
                axes.text(left, below, name, va="top", fontsize=7, color=colour)
                axes.text(left, below + 0.16, f"{similarity:.3f}", va="top", fontsize=7, color=theme.muted)

    right = columns[1 + NUM_NEAREST] + 1.02
    save(folder, "looked_at", (right * 0.95, (0.3 + len(mistakes) * 1.6 - 0.1) * 0.95), paint)


def _size(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _curve(
    axes: Axes, history: Sequence[Mapping[str, Any]], field: str, label: str, theme: Theme
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw one curve; return its epochs and its values, (E,) each, NaN where the history has no value."""
    side, _, name = field.partition("_")
    colour = theme.blue if side == "train" else theme.orange
    epochs = np.array([line.get("epoch", index + 1) for index, line in enumerate(history)], np.float64)
    values = np.array([np.nan if (value := line.get(field)) is None else value for line in history], np.float64)
    axes.plot(epochs, values, color=colour, label=label, marker="o" if len(epochs) <= 30 else "", markersize=3)
    axes.set_title(name, loc="left")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True) if len(epochs) > 1 else FixedLocator(list(epochs)))
    return epochs, values


def _mark(
    axes: Axes,
    parts: Parting,
    train: tuple[NDArray[np.float64], NDArray[np.float64]],
    val: tuple[NDArray[np.float64], NDArray[np.float64]],
    theme: Theme,
) -> None:
    """Mark the epoch where the curves part, and shade the space between them from there on."""
    words = f"{WORDS[parts.reason][1]} (epoch {parts.epoch})"
    axes.axvline(parts.epoch, color=theme.muted, linewidth=1, linestyle=(0, (4, 3)), label=words)
    since = train[0] >= parts.epoch
    axes.fill_between(train[0][since], train[1][since], val[1][since], color=theme.muted, alpha=0.22, linewidth=0)


def _measure(accuracy: Axes, parts: Parting, theme: Theme) -> None:
    """Write the final distance of the accuracies beside the last epoch."""
    accuracy.annotate(
        f"{parts.space_points:.1f}\npoints",
        (parts.last_epoch, (parts.train[1] + parts.val[1]) / 2),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=theme.ink,
        # It stands beside the last epoch, outside of the axes.
        annotation_clip=False,
    )
