"""The pictures of `gapgate look` and `gapgate similar`, drawn with `gapgate.report.drawing`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from gapgate.onnx.graph import Stage
from gapgate.report.drawing import GRAY, Theme, Tile, coloured, in_rows, label_text, mosaic, mosaic_size, save, scale
from gapgate.report.tour.convolution import Kernel
from gapgate.text import number

_SIDE_INCHES = 2.0
_FULL_COLOUR = 99.5
"""Percentile of the results that gets the full colour, so that one very bright pixel does not make all others pale."""
_CELL_INCHES = 0.52
_SHEET_INCHES = 1.1
_SHEET_COLUMNS = 6


def stages(
    folder: Path, found: Sequence[Stage], maps: Sequence[NDArray[np.floating]], place: tuple[int, int], *, signed: bool
) -> None:
    """Draw `stages.png`: the image and the output of each stage, side by side.

    Args:
        folder: folder of the file.
        found: names and sizes of the image and the stages.
        maps: values of the image, 0..255, and of the stages, (H, W) each.
        place: (row, column) in the convolution's result. It is framed, with the pixels of the image it comes from.
        signed: True if the results lie around 0 and are drawn in two colours; False if they are an image, in gray.
    """
    height, width = maps[0].shape
    across, down = width / max(height, width), height / max(height, width)
    tiles = [Tile(at * (across + 0.12), 0, values, across, down) for at, values in enumerate(maps)]
    # All stages share the scale of the convolution's result, so that values can be compared by eye.
    largest = max(float(np.percentile(np.abs(maps[1]), _FULL_COLOUR)), 1e-12)

    def paint(figure: Figure, theme: Theme) -> None:
        signs = LinearSegmentedColormap.from_list("sign", [theme.orange, theme.surface, theme.blue])
        results = scale(signs, -largest, largest) if signed else GRAY
        painted = [replace(tile, pixels=coloured(tile.pixels, results)) for tile in tiles[1:]]
        axes = mosaic(figure, [tiles[0], *painted], _SIDE_INCHES, GRAY, above=0.24)
        for tile, stage in zip(tiles, found, strict=True):
            title = f"{stage.name}\n{stage.size}"
            axes.text(tile.left, -0.03, title, va="bottom", fontsize=8, color=theme.ink, linespacing=1.4)
            size = (tile.width, tile.height)
            axes.add_patch(Rectangle((tile.left, tile.top), *size, fill=False, edgecolor=theme.line, linewidth=0.8))
            values = f"{_number(tile.pixels.min())} to {_number(tile.pixels.max())}"
            axes.text(tile.left, down + 0.03, values, va="top", fontsize=7, color=theme.muted)
        # 3 × 3 pixels of the image give one value of the convolution; later stages have other coordinates.
        for tile, window in zip(tiles, (3, 1), strict=False):
            _frame(axes, tile, place, window, theme)
        axes.set(xlim=(0, tiles[-1].left + across + 0.02), ylim=(down + 0.13, -0.24))

    save(folder, "stages", mosaic_size(tiles, _SIDE_INCHES, above=0.24, below=0.11), paint)


def kernel(folder: Path, name: str, image: NDArray[np.uint8], numbers: Kernel, place: tuple[int, int]) -> None:
    """Draw `kernel.png`: the pixels of an image (H, W) under the kernel at `place`, the kernel, the sum of products."""
    row, column = place
    pixels = image[row : row + 3, column : column + 3]
    weights = np.array(numbers, np.float64)
    products = pixels * weights
    shown: list[Sequence[Sequence[float | Fraction]]] = [pixels.tolist(), numbers, products.tolist()]
    grids: list[NDArray[Any]] = [pixels, weights, products]
    titles = ("pixels", f"kernel {name}", "products")

    def paint(figure: Figure, theme: Theme) -> None:
        signs = LinearSegmentedColormap.from_list("sign", [theme.orange, theme.surface, theme.blue])
        axes = mosaic(figure, [], _CELL_INCHES, GRAY, above=0.6)
        for at, values in enumerate(grids):
            left = at * 3.7
            extent = (left, left + 3, 3, 0)
            if at == 0:
                axes.imshow(values, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto")
            else:
                peak = max(float(np.abs(values).max()) * 1.6, 1e-12)  # light enough for the numbers on it
                axes.imshow(values, cmap=signs, vmin=-peak, vmax=peak, extent=extent, aspect="auto")
            axes.text(left, -0.15, titles[at], va="bottom", fontsize=9, color=theme.muted)
            for (y, x), value in np.ndenumerate(values):
                ink = theme.ink if at else ("#ffffff" if value < 128 else "#1a1d21")
                text = _number(shown[at][y][x])
                axes.text(left + x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=9, color=ink)
        for left, sign in ((3.35, "×"), (7.05, "="), (10.75, "→")):
            axes.text(left, 1.5, sign, ha="center", va="center", fontsize=13, color=theme.muted)
        total = f"sum {_number(products.sum())}"
        axes.text(11.1, 1.5, total, ha="left", va="center", fontsize=11, fontweight="bold", color=theme.ink)

    save(folder, "kernel", (13.4 * _CELL_INCHES, 3.75 * _CELL_INCHES), paint)


def similar(
    folder: Path, query: NDArray[np.uint8], thumbnails: Sequence[bytes], captions: Sequence[tuple[str, str]]
) -> None:
    """Draw `similar.png`: an image (H, W, C) and the JPEG files of its neighbours, with two lines of text under each.

    `captions` are these lines, the image's own first.
    """
    pictures = [query]
    for data in thumbnails:
        with Image.open(BytesIO(data)) as image:
            pictures.append(np.asarray(image))
    tiles = in_rows(pictures, _SHEET_COLUMNS, 1.5)

    def paint(figure: Figure, theme: Theme) -> None:
        axes = mosaic(figure, tiles, _SHEET_INCHES, GRAY)
        for at, (tile, (upper, lower)) in enumerate(zip(tiles, captions, strict=True)):
            colour = theme.blue if at == 0 else theme.ink
            name = label_text(upper, at, 16)
            axes.text(tile.left, tile.top + 1.04, name, va="top", fontsize=8, color=colour)
            axes.text(tile.left, tile.top + 1.2, lower, va="top", fontsize=8, color=theme.muted)

    save(folder, "similar", mosaic_size(tiles, _SHEET_INCHES, below=0.4), paint)


def _frame(axes: Axes, tile: Tile, place: tuple[int, int], window: int, theme: Theme) -> None:
    """Draw a frame around `window` × `window` pixels of a tile, from `place` (row, column) on."""
    rows, columns = tile.pixels.shape
    across, down = tile.width / columns, tile.height / rows
    corner = (tile.left + place[1] * across, tile.top + place[0] * down)
    size = (window * across, window * down)
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=theme.orange, linewidth=1.2))


def _number(value: float | Fraction) -> str:
    """Format a number as `−3`, `1/9` or `12.4`."""
    if isinstance(value, Fraction) and value.denominator > 1:
        return f"{value.numerator}/{value.denominator}"
    return number(round(float(value), 1), "zg")
