"""Occlusion on networks whose evidence is known."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from gapgate.errors import DataError
from gapgate.onnx.classifier import Classifier, softmax
from gapgate.onnx.occlusion import BATCH_SIZE, Heat, feature_maps_png, heat_pixels, heat_png, occlusion, patch_grid
from tests.gapgate import onnx_models

SHAPE = (28, 28, 1)
FOR, AGAINST = np.s_[4:10, 4:10], np.s_[18:24, 16:22]


def go_on():
    return False


def region_model(path, shape=SHAPE):
    """Class 0 is lit pixels in FOR and dark ones in AGAINST."""
    weights = np.zeros((*shape, 2))
    weights[FOR][..., 0], weights[AGAINST][..., 0] = 0.2, -0.1
    onnx_models.write_linear(path, weights.reshape(-1, 2), np.zeros(2), shape)
    return Classifier.load(path)


@pytest.fixture
def model(tmp_path):
    return region_model(tmp_path / "model.onnx")


@pytest.fixture
def image():
    return np.full(SHAPE, 200, np.uint8)


def opened(png):
    with Image.open(BytesIO(png), formats=["PNG"]) as picture:
        return picture.mode, np.asarray(picture)


def heat_of(values):
    return Heat(np.zeros((1, 1), np.float32), 1, 1, np.asarray(values, np.float32))


def test_the_map_is_hot_where_the_evidence_is_and_cold_where_the_counter_evidence_is(model, image):
    heat = occlusion(model, image, 0, fill=0, cancelled=go_on)
    assert heat.map[FOR].mean() > 0.05
    assert heat.map[AGAINST].mean() < -0.03
    rest = np.ones(SHAPE[:2], bool)
    rest[0:14, 0:14] = rest[14:28, 12:26] = False
    np.testing.assert_array_equal(heat.map[rest], 0)
    other = occlusion(model, image, 1, fill=0, cancelled=go_on)
    np.testing.assert_allclose(other.map, -heat.map, atol=1e-6)


def test_the_drops_are_those_of_hiding_each_patch_by_hand(image, tmp_path):
    shape = (17, 23, 3)
    rng = np.random.default_rng(0)
    onnx_models.write_linear(tmp_path / "m.onnx", rng.normal(size=(17 * 23 * 3, 4)) / 8, np.zeros(4), shape)
    model, image = Classifier.load(tmp_path / "m.onnx"), rng.integers(0, 256, shape, dtype=np.uint8)
    heat = occlusion(model, image, 1, fill=90, cancelled=go_on)
    before = softmax(model.logits(image[None]))[0, 1]
    assert 0.05 < before < 0.95
    assert np.abs(heat.drops).max() > 0.1
    total, count = np.zeros(shape[:2]), np.zeros(shape[:2])
    for (row, column), drop in np.ndenumerate(heat.drops):
        top = min(row * heat.stride_px, 17 - heat.patch_px)
        left = min(column * heat.stride_px, 23 - heat.patch_px)
        place = np.s_[top : top + heat.patch_px, left : left + heat.patch_px]
        hidden = image.copy()
        hidden[place] = 90
        assert drop == pytest.approx(before - softmax(model.logits(hidden[None]))[0, 1], abs=1e-6)
        total[place] += drop
        count[place] += 1
    assert count.min() >= 1
    np.testing.assert_allclose(heat.map, total / count, atol=1e-6)


@pytest.mark.parametrize("fill", [0, 100, 200, 250])
def test_the_patch_has_the_value_of_the_fill(model, image, fill):
    # Both regions are 36 pixels and the patch of row 2 and column 2 is just FOR, so the log odds of class 0 are
    # 36 (0.2 · shown − 0.1 · 200) / 255, where 200 is shown before and `fill` after.
    before, after = (1 / (1 + np.exp(-36 * (0.2 * shown - 20) / 255)) for shown in (200, fill))
    heat = occlusion(model, image, 0, fill=fill, cancelled=go_on)
    assert (heat.patch_px, heat.stride_px) == (6, 2)
    assert heat.drops[2, 2] == pytest.approx(before - after, abs=1e-5)


def test_hiding_a_background_of_the_fill_value_changes_nothing(tmp_path):
    images, labels = onnx_models.digits()
    model = onnx_models.fit_cnn(tmp_path / "model.onnx", images, labels)
    half_empty = images[0].copy()
    half_empty[:, 4:] = 0
    heat = occlusion(model, half_empty, 0, fill=0, cancelled=go_on)
    np.testing.assert_allclose(heat.map[:, 4 + heat.patch_px :], 0, atol=1e-6)
    assert np.abs(heat.map[:, :4]).max() > 1e-3


def test_the_image_itself_is_left_alone(model, image):
    occlusion(model, image, 0, fill=0, cancelled=go_on)
    assert (image == 200).all()


def test_a_cancelled_explanation_stops_after_the_batch(model, image):
    asked = []
    assert occlusion(model, image, 0, fill=0, cancelled=lambda: len(asked) == 2 or asked.append(1)) is None
    assert len(asked) == 2
    heat = occlusion(model, image, 0, fill=0, cancelled=lambda: asked.append(1))
    assert len(asked) - 2 == -(-heat.drops.size // BATCH_SIZE)


def test_an_image_of_another_shape_is_refused(model):
    with pytest.raises(DataError, match="do not fit the model"):
        occlusion(model, np.zeros((28, 28, 3), np.uint8), 0, fill=0, cancelled=go_on)


def test_patches_cover_a_side_of_any_length_exactly():
    for side in range(1, 513):
        patch, stride = patch_grid(side)
        assert 1 <= stride <= patch <= side
        assert (side - patch) % stride == 0


@pytest.mark.parametrize(
    ("side", "patch", "positions"),
    [
        *((1, 1, 1), (2, 1, 2), (5, 1, 5), (7, 1, 7), (8, 2, 7), (12, 2, 11), (20, 4, 17)),
        *(
            (28, 6, 12),
            (32, 6, 14),
            (56, 11, 16),
            (57, 13, 12),
            (64, 12, 14),
            (65, 11, 10),
            (96, 15, 10),
            (128, 29, 10),
        ),
        *((129, 27, 7), (160, 34, 7), (224, 44, 7), (512, 104, 7)),
    ],
)
def test_a_patch_is_about_a_fifth_of_the_image_and_larger_images_have_fewer_places(side, patch, positions):
    found, stride = patch_grid(side)
    assert (found, (side - found) // stride + 1) == (patch, positions)


@pytest.mark.parametrize("channels", [1, 3])
def test_red_is_for_blue_is_against_and_the_image_shows_elsewhere(channels):
    image = np.full((28, 28, channels), 128, np.uint8)
    values = np.zeros((28, 28))
    values[FOR], values[AGAINST] = 0.4, -0.2
    mode, pixels = opened(heat_png(image, heat_of(values)))
    assert (mode, pixels.shape) == ("RGB", (224, 224, 3))
    red, blue, gray = pixels[56, 56].astype(int), pixels[168, 152].astype(int), pixels[8, 200]
    assert red[0] > red[2] + 100
    assert blue[2] > blue[0] + 40
    assert len(set(gray.tolist())) == 1
    assert np.ptp(pixels[4, 4:220]) == 0


def test_the_pixels_of_a_small_image_stay_sharp():
    image = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    _, pixels = opened(heat_png(image, heat_of(np.zeros((28, 28)))))
    blocks = pixels[:, :, 0].reshape(28, 8, 28, 8)
    np.testing.assert_array_equal(blocks, np.broadcast_to(blocks[:, :1, :, :1], blocks.shape))
    assert np.corrcoef(blocks[:, 0, :, 0].ravel(), image.ravel())[0, 1] > 0.999


@pytest.mark.parametrize(
    ("shape", "size"),
    [((8, 8), (224, 224)), ((100, 30), (800, 240)), ((223, 230), (446, 460)), ((224, 224), (224, 224))],
)
def test_the_picture_is_large_enough_to_read(shape, size):
    assert opened(heat_png(np.zeros((*shape, 1), np.uint8), heat_of(np.ones(shape))))[1].shape[:2] == size


def test_drops_that_are_next_to_nothing_are_not_blown_up():
    image = np.full(SHAPE, 128, np.uint8)
    strong, faint, none = (opened(heat_png(image, heat_of(np.full((28, 28), v))))[1] for v in (0.5, 1e-4, 0.0))
    assert np.ptp(strong[100, 100]) > 100
    assert np.ptp(faint[100, 100]) < 5
    np.testing.assert_array_equal(none, none[0, 0, 0])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_colours_are_those_worked_by_hand(channels):
    """Gray 128 becomes 40 + 128 · 185 / 255 = 132.9, over which a full colour lies with 0.85."""
    image = np.full((28, 28, channels), 128, np.uint8)
    image[:, 13], image[:, 14] = 0, 255
    values = np.zeros((28, 28))
    values[:, :6], values[:, 6:12], values[:, 16:22], values[:, 22:] = 0.4, 0.2, -0.2, -0.4
    pixels = heat_pixels(image, heat_of(values))
    for column, expected in {
        2: (209, 71, 67),
        8: (171, 102, 100),
        13: (40, 40, 40),
        14: (225, 225, 225),
        19: (93, 128, 181),
        25: (54, 124, 228),
    }.items():
        assert tuple(pixels[100, column * 8 + 4]) == expected


@pytest.mark.parametrize(("share", "expected"), [(1.0, (195, 57, 53)), (-1.0, (40, 110, 214))])
def test_over_black_the_colours_are_those_worked_by_hand(share, expected):
    pixels = heat_pixels(np.zeros(SHAPE, np.uint8), heat_of(np.full((28, 28), share)))  # 40 + 0.85 (colour − 40)
    assert (pixels == expected).all()


@pytest.mark.parametrize(("drop", "expected"), [(0.01, (209, 71, 67)), (0.005, (171, 102, 100)), (1.0, (209, 71, 67))])
def test_a_drop_of_a_hundredth_or_more_gets_the_full_colour_where_none_is_larger(drop, expected):
    pixels = heat_pixels(np.full(SHAPE, 128, np.uint8), heat_of(np.full((28, 28), drop)))
    assert (pixels == expected).all()


@pytest.mark.parametrize(
    ("block_px", "stride_px", "is_seen"), [(1, 2, True), (1, 4, False), (2, 4, True), (2, 8, False), (4, 8, True)]
)
def test_the_heat_is_as_fine_as_two_cells_a_stride(block_px, stride_px, is_seen):
    rows, columns = np.indices((24, 16)) // block_px
    signs = 1 - 2 * ((rows + columns) % 2)
    heat = Heat(np.zeros((1, 1), np.float32), 1, stride_px, signs.astype(np.float32))
    pixels = heat_pixels(np.full((24, 16, 1), 128, np.uint8), heat).astype(int)
    assert (np.ptp(pixels, axis=2).max() > 100) == is_seen
    assert is_seen or np.ptp(pixels) == 0


def test_a_heat_is_frozen(model, image):
    with pytest.raises(AttributeError):
        occlusion(model, image, 0, fill=0, cancelled=go_on).patch_px = 1


def test_a_rise_and_a_drop_of_one_size_look_equally_strong():
    image = np.full(SHAPE, 128, np.uint8)
    for share in (0.25, 0.5, 1.0):
        values = np.where(np.arange(28) < 14, share, -share) * np.ones((28, 28))
        values[0, 0] = 1
        _, pixels = opened(heat_png(image, heat_of(values)))
        red, blue = oklab(pixels[200, 20]), oklab(pixels[200, 200])
        assert red[0] == pytest.approx(blue[0], abs=0.03)
        assert np.hypot(*red[1:]) == pytest.approx(np.hypot(*blue[1:]), abs=0.03)


def oklab(pixel):
    """Lightness, a and b of an sRGB pixel (https://bottosson.github.io/posts/oklab/)."""
    encoded = pixel / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    cone = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.array(lab) @ np.cbrt(np.array(cone) @ linear)


def test_the_same_input_gives_the_same_bytes(model, image):
    pictures = [heat_png(image, occlusion(model, image, 0, fill=0, cancelled=go_on)) for _ in range(2)]
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize(("shape", "columns"), [((32, 14, 14), 6), ((1, 8, 8), 1), ((5, 3, 12), 2), ((2, 90, 1), 2)])
def test_a_sheet_holds_each_map_in_its_tile_on_its_own_scale(shape, columns):
    maps = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    png, found = feature_maps_png(maps)
    mode, sheet = opened(png)
    assert (mode, found) == ("L", columns)
    count, height, width = shape
    assert sheet.shape == (-(-count // columns) * height, columns * width)
    for index, values in enumerate(maps):
        top, left = index // columns * height, index % columns * width
        tile = sheet[top : top + height, left : left + width]
        expected = 255 * (values - values.min()) / np.ptp(values)
        np.testing.assert_allclose(tile, expected, atol=0.51)
        assert (tile.min(), tile.max()) == (0, 255)


def test_a_map_without_differences_is_black():
    assert not opened(feature_maps_png(np.full((3, 4, 4), 7, np.float32))[0])[1].any()
