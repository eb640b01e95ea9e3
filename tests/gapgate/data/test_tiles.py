from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from gapgate.data.tiles import png, thumbnail, tile, whole_factor

CHECKS = (np.indices((8, 8)).sum(axis=0) % 2 * 200).astype(np.uint8)[:, :, None]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_file_holds_exactly_the_pixels(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, channels), dtype=np.uint8)
    with Image.open(BytesIO(png(pixels))) as image:
        assert image.mode == ("L" if channels == 1 else "RGB")
        np.testing.assert_array_equal(np.asarray(image).reshape(pixels.shape), pixels)


def test_pixels_stay_square_when_enlarged_and_are_averaged_when_shrunk():
    np.testing.assert_array_equal(np.asarray(tile(CHECKS, 24, 24)), CHECKS[:, :, 0].repeat(3, 0).repeat(3, 1))
    np.testing.assert_array_equal(np.asarray(tile(CHECKS, 8, 8)), CHECKS[:, :, 0])
    assert np.abs(np.asarray(tile(CHECKS, 2, 2)).astype(int) - 100).max() < 10


@pytest.mark.parametrize(("side", "least", "factor"), [(28, 112, 4), (27, 112, 5), (112, 112, 1), (300, 112, 1)])
def test_the_factor_is_the_smallest_whole_one_that_reaches_the_least_side(side, least, factor):
    assert whole_factor(side, least) == factor


@pytest.mark.parametrize(
    ("height", "width", "size", "suffix"),
    [(32, 8, (8, 32), ".png"), (33, 8, (8, 33), ".jpg"), (96, 48, (48, 96), ".jpg"), (192, 96, (48, 96), ".jpg")],
)
def test_a_small_thumbnail_keeps_every_pixel_and_a_large_one_its_form(height, width, size, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    data, found = thumbnail(pixels)
    with Image.open(BytesIO(data)) as image:
        assert (image.size, found) == (size, suffix)
        if suffix == ".png":
            np.testing.assert_array_equal(np.asarray(image), pixels)
