"""What the plots of an evaluation show: curves, cells, bars and words, read from the drawn figure."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from gapgate.evidence.measures.calibration import FEW_IMAGES
from gapgate.evidence.measures.metrics import learning_curve
from gapgate.evidence.measures.mistakes import Mistake
from gapgate.onnx.inner_layers import FeatureMaps
from gapgate.report import figures
from gapgate.report.drawing import LIGHT

NAMES = ("ant", "bee", "fly")


@pytest.fixture
def drawn(monkeypatch):
    """Draws a figure and returns it, with the tiles of pixels that it was given."""

    def made(draw, *args, **more):
        found, tiles = [], []
        real = figures.mosaic

        def save(folder, name, size, paint):
            figure = Figure(size)
            paint(figure, LIGHT)
            found.append((name, figure))

        def mosaic(figure, given, *rest, **options):
            tiles.extend(given)
            return real(figure, given, *rest, **options)

        monkeypatch.setattr(figures, "save", save)
        monkeypatch.setattr(figures, "mosaic", mosaic)
        draw(Path(), *args, **more)
        monkeypatch.setattr(figures, "mosaic", real)
        ((name, figure),) = found
        return name, figure, tiles

    return made


def texts(axes):
    return [(*text.get_position(), text.get_text()) for text in axes.texts]


HISTORY = [
    {"epoch": epoch, "train_loss": 1 / epoch, "val_loss": loss, "train_accuracy": train, "val_accuracy": val}
    for epoch, loss, train, val in (
        (1, 0.9, 0.5, 0.55), (2, 0.5, 0.7, 0.6), (3, None, 0.8, 0.65), (4, 0.7, 0.9, 0.7), (5, 0.8, 0.95, 0.725),
        (6, 0.9, 0.96, 0.71),
    )
]  # fmt: skip


def test_the_curves_are_those_of_the_history_and_the_gap_stands_at_their_end(drawn):
    name, figure, _ = drawn(figures.learning_curves, HISTORY, learning_curve(HISTORY), is_augmented=True)
    assert name == "learning_curves"
    for axes, what in zip(figure.axes, ("loss", "accuracy"), strict=True):
        train, val, mark = axes.get_lines()
        assert axes.get_title(loc="left") == what
        for line, side, colour in ((train, "train", LIGHT.blue), (val, "val", LIGHT.orange)):
            values = [np.nan if line_of[f"{side}_{what}"] is None else line_of[f"{side}_{what}"] for line_of in HISTORY]
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4, 5, 6])
            np.testing.assert_array_equal(line.get_ydata(), values)
            assert line.get_color() == colour
        assert [train.get_label(), val.get_label()] == ["train (augmented)", "validation"]
        assert (mark.get_xdata()[0], mark.get_label()) == (2, "lowest validation loss (epoch 2)")
        # The space between both is shaded from there to the end.
        (space,) = axes.collections
        box = space.get_datalim(axes.transData)
        assert (box.x0, box.x1) == (2, 6)
    (said,) = figure.axes[1].texts
    assert said.get_text() == "25.0\npoints"
    assert said.xy == (6, pytest.approx((0.96 + 0.71) / 2))


def test_a_cell_has_the_number_of_answers_and_the_share_of_its_true_class(drawn):
    counts = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    name, figure, _ = drawn(figures.confusion, counts, NAMES)
    (axes,) = figure.axes
    (image,) = axes.get_images()
    assert name == "confusion"
    np.testing.assert_allclose(image.get_array(), [[0.75, 0.25, 0], [0.25, 0.75, 0], [0, 0, 0]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    # Column, row, number: what was said runs across.
    assert texts(axes) == [(0, 0, "6"), (1, 0, "2"), (0, 1, "1"), (1, 1, "3")]
    assert [label.get_text() for label in axes.get_xticklabels()] == list(NAMES)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES)


def test_a_bar_has_the_accuracy_of_its_bin_and_is_faint_where_it_has_few_images(drawn):
    bins = [
        {"low": 0.0, "high": 0.25, "num_images": 0, "accuracy": None, "confidence": None},
        {"low": 0.25, "high": 0.5, "num_images": FEW_IMAGES - 1, "accuracy": 0.5, "confidence": 0.375},
        {"low": 0.5, "high": 0.75, "num_images": FEW_IMAGES, "accuracy": 0.75, "confidence": 0.625},
        {"low": 0.75, "high": 1.0, "num_images": 900, "accuracy": 0.875, "confidence": 0.9375},
    ]
    _, figure, _ = drawn(figures.reliability, bins, 0.0417)
    upper, lower = figure.axes

    def bars(axes):
        found = [(bar.get_x() + bar.get_width() / 2, bar.get_height(), bar.get_alpha() or 1) for bar in axes.patches]
        return sorted(found)

    assert bars(upper) == [(0.375, 0.5, 0.35), (0.625, 0.75, 1), (0.875, 0.875, 1)]
    assert [(at, height) for at, height, _ in bars(lower)] == [
        (0.375, FEW_IMAGES - 1),
        (0.625, FEW_IMAGES),
        (0.875, 900),
    ]
    (points,) = upper.collections
    np.testing.assert_array_equal(points.get_offsets(), [[each] * 2 for each in (0.375, 0.625, 0.9375)])
    assert upper.get_title(loc="left") == "expected calibration error 0.042"
    assert (upper.get_ylabel(), lower.get_ylabel(), lower.get_xlabel()) == ("accuracy", "images", "confidence")


def plain(*levels):
    return np.stack([np.full((4, 4, 1), level, np.uint8) for level in levels])


def test_below_each_wrong_answer_stands_what_was_said_how_surely_and_what_it_is(drawn):
    images = plain(*range(9))
    labels, said = np.array([0, 1, 2] * 3), np.array([1, 2, 0] * 3)
    name, figure, tiles = drawn(
        figures.worst_errors, images, labels, said, np.linspace(0.9, 0.5, 9), NAMES, name="suspects"
    )
    assert name == "suspects"
    assert [int(tile.pixels[0, 0, 0]) for tile in tiles] == list(range(9))
    # Rows of 8.
    assert [(tile.left, tile.top) for tile in tiles] == [*((at * 1.12, 0) for at in range(8)), (0, 1.5)]
    words = [(left, text) for left, _, text in texts(figure.axes[0])]
    assert words[:4] == [(0, "bee 90 %"), (0, "is ant"), (1.12, "fly 85 %"), (1.12, "is bee")]
    assert words[-2:] == [(0, "ant 50 %"), (0, "is fly")]


def test_beside_each_mistake_stand_its_heat_and_its_neighbours_with_class_and_similarity(drawn):
    mistakes = [
        Mistake(
            image=plain(10 * at)[0], heat=np.full((8, 8, 3), 10 * at + 1, np.uint8), label=at, predicted=2,
            confidence=0.75, nearest_images=list(plain(*range(10 * at + 2, 10 * at + 7 - at))),
            nearest_labels=[2, 0, 1, 2, 0][: 5 - at], similarities=[0.9, 0.8, 0.7, 0.6, 0.5][: 5 - at],
        )
        for at in range(2)
    ]  # fmt: skip
    _, figure, tiles = drawn(figures.looked_at, mistakes, NAMES)
    assert [int(tile.pixels[0, 0, 0]) for tile in tiles] == [0, 1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 15]
    assert [tile.top for tile in tiles] == [0.0] * 7 + [1.6] * 6
    words = texts(figure.axes[0])
    assert [text for *_, text in words[:3]] == ["image", "what counted", "nearest training images"]
    first = [text for _, top, text in words[3:] if top < 1.5]
    second = [text for _, top, text in words[3:] if top > 1.5]
    assert first == [
        "fly 75 %",
        "is ant",
        "fly",
        "0.900",
        "ant",
        "0.800",
        "bee",
        "0.700",
        "fly",
        "0.600",
        "ant",
        "0.500",
    ]
    assert second == ["fly 75 %", "is bee", "fly", "0.900", "ant", "0.800", "bee", "0.700", "fly", "0.600"]
    # A neighbour of the class of the answer explains it.
    coloured = [text.get_text() for text in figure.axes[0].texts if text.get_color() == LIGHT.orange]
    assert coloured == ["fly 75 %", "fly", "fly", "fly 75 %", "fly", "fly"]


def test_filters_of_three_channels_are_coloured_and_others_are_the_mean_of_their_channels(drawn):
    weights = np.zeros((2, 3, 2, 2), np.float32)
    weights[0, 0, 0, 1], weights[1, 2, 1, 0] = 1.0, -2.0
    _, _, tiles = drawn(figures.filters, weights)
    # All on the scale of the largest weight, with 0.5 for none.
    expected = np.full((2, 2, 2, 3), 0.5)
    expected[0, 0, 1, 0], expected[1, 1, 0, 2] = 0.75, 0.0
    np.testing.assert_allclose([tile.pixels for tile in tiles], expected)
    _, _, tiles = drawn(figures.filters, weights[:, [0, 2]])
    np.testing.assert_allclose([tile.pixels for tile in tiles], [[[0, 0.25], [0, 0]], [[0, 0], [-0.5, 0]]])


def test_each_row_of_feature_maps_has_its_layers_name_and_sizes(drawn):
    image = np.full((4, 6, 1), 51, np.uint8)
    maps = np.arange(9, dtype=np.float32)[:, None, None] * np.ones((9, 2, 3), np.float32)
    maps[:, 0, 0] = -1
    _, figure, tiles = drawn(figures.feature_maps, image, [FeatureMaps("1 convolution", maps)])
    assert [text for *_, text in texts(figure.axes[0])] == ["image 4×6×1", "1 convolution 2×3×9"]
    assert len(tiles) == 1 + figures.MAX_MAPS
    np.testing.assert_allclose(tiles[0].pixels, 0.2)
    # Each map is stretched by its own values, of which the first is the least.
    stretched = np.array([[0, 1, 1], [1, 1, 1]], np.float32)
    for tile in tiles[2:]:
        np.testing.assert_allclose(tile.pixels, stretched)
