"""Drawing tools of the figures: the colours of a light and a dark page, tiles of pixels, files of equal bytes.

They use matplotlib's object interface only: pyplot is slow to import and keeps global state. The files hold no date and
no version, so equal figures have equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from numpy.typing import NDArray

from gapgate.report.html import FIGURE_DPI
from gapgate.text import shortened

FONT = "DejaVu Sans"
"""Font of all text. It comes with matplotlib, so the same text has the same pixels everywhere."""
MAX_LABEL_CHARS = 20


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours as `#rrggbb`; blue and orange have a contrast of 3:1 or more with the surface."""

    surface: str
    ink: str
    muted: str
    line: str
    blue: str
    orange: str


LIGHT = Theme(surface="#ffffff", ink="#1a1d21", muted="#5c6570", line="#d9dee4", blue="#1f6feb", orange="#c2410c")
DARK = Theme(surface="#16191d", ink="#e6e9ed", muted="#9aa4af", line="#333a42", blue="#58a6ff", orange="#fb923c")


GRAY = ScalarMappable(Normalize(0, 255), "gray")
"""Gray from black for 0 to white for 255."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Image, of side 1 by default, with its upper left corner at (left, top); y points downwards."""

    left: float
    top: float
    pixels: NDArray[Any]
    """Pixels, (H, W), (H, W, 1) or (H, W, 3)."""
    width: float = 1.0
    height: float = 1.0


def in_rows(images: Sequence[NDArray[Any]], columns: int, step_down: float) -> list[Tile]:
    """Place images in rows of `columns` tiles, from left to right; the next row is `step_down` further down."""
    return [Tile(at % columns * 1.12, at // columns * step_down, pixels) for at, pixels in enumerate(images)]


def label_text(name: str, index: int, max_chars: int = MAX_LABEL_CHARS) -> str:
    """Return a class name that can be drawn: shortened, or `#index` if the font lacks one of its characters."""
    if any(ord(char) not in _glyphs() for char in name):
        return f"#{index}"
    return shortened(name, max_chars)


@cache
def _glyphs() -> frozenset[int]:
    # Without the line feed and the carriage return: the font has them, but a label with one would have two lines.
    return frozenset(get_font(findfont(FONT)).get_charmap()) - {0x0A, 0x0D}


def mosaic(
    figure: Figure, tiles: Sequence[Tile], side_inches: float, colours: ScalarMappable, *, above: float = 0.0
) -> Axes:
    """Draw all tiles in one Axes that fills the figure; one unit is the side of a tile."""
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    width, height = figure.get_size_inches() / side_inches
    axes.add_artist(_Pixels(_painted(figure, tiles, side_inches, colours, above)))
    axes.set(xlim=(0, width), ylim=(height - above, -above))
    return axes


class _Pixels(Artist):
    """Pixels (H, W, 3) uint8 that cover the figure. `imshow` would resample them to the size that they have."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        super().__init__()
        self._pixels = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])

    def draw(self, renderer: Any) -> None:
        # matplotlib's renderers take the lowest row first.
        renderer.draw_image(renderer.new_gc(), 0, 0, self._pixels[::-1])


def _painted(
    figure: Figure, tiles: Sequence[Tile], side_inches: float, colours: ScalarMappable, above: float
) -> NDArray[np.uint8]:
    """Paint tiles into the pixels of a figure, (height, width, 3), each by its nearest pixels."""
    side = side_inches * figure.dpi
    across, down = (round(inches * figure.dpi) for inches in figure.get_size_inches())
    painted = np.empty((down, across, 3), np.uint8)
    painted[:] = np.array(to_rgb(figure.get_facecolor())) * 255
    for tile in tiles:
        top, left = round((tile.top + above) * side), round(tile.left * side)
        place = painted[top : top + round(tile.height * side), left : left + round(tile.width * side)]
        shapes = zip(place.shape[:2], tile.pixels.shape[:2], strict=True)
        rows, columns = (np.arange(wanted) * given // wanted for wanted, given in shapes)
        place[:] = coloured(tile.pixels, colours)[rows[:, None], columns]
    return painted


def scale(colours: str | Colormap, low: float, high: float) -> ScalarMappable:
    """The colours of the values from `low` to `high`."""
    return ScalarMappable(Normalize(low, high), colours)


def coloured(pixels: NDArray[Any], colours: ScalarMappable) -> NDArray[np.uint8]:
    """Colour pixels, (H, W, 3) uint8: those of one channel by `colours`, floats of three from 0..1."""
    if pixels.ndim == 3 and pixels.shape[-1] == 3:
        return pixels if pixels.dtype == np.uint8 else (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    found: NDArray[np.uint8] = colours.to_rgba(pixels.reshape(pixels.shape[:2]), bytes=True)[..., :3]
    return found


def mosaic_size(
    tiles: Sequence[Tile], side_inches: float, *, above: float = 0.0, below: float = 0.0
) -> tuple[float, float]:
    """Compute the width and height in inches of a mosaic, with room for text: `above` and `below`, in tile sides."""
    right = max(tile.left + tile.width for tile in tiles) + 0.02
    bottom = max(tile.top + tile.height for tile in tiles) + 0.02
    return right * side_inches, (above + bottom + below) * side_inches


def save(folder: Path, name: str, size_inches: tuple[float, float], paint: Callable[[Figure, Theme], None]) -> None:
    """Let `paint` draw the figure twice: `NAME.png` on white and `dark/NAME.png` on near-black."""
    for theme, path in ((LIGHT, folder / f"{name}.png"), (DARK, folder / "dark" / f"{name}.png")):
        path.parent.mkdir(parents=True, exist_ok=True)
        with rc_context(_style(theme)):
            figure = Figure(size_inches, dpi=FIGURE_DPI, layout="constrained")
            FigureCanvasAgg(figure)
            paint(figure, theme)
            # matplotlib writes its version as Software; None leaves it out, so that an update changes no bytes.
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
