"""What two images must share to count as copies of each other."""

import io

import numpy as np
import pytest
from PIL import Image

from gapgate.data.decoding import content_hash
from gapgate.data.picture.opening import load_image, read_header

BYTES = np.arange(48, dtype=np.uint8)


def test_the_same_bytes_in_another_shape_are_another_image():
    shapes = [(2, 24), (24, 2), (6, 8), (8, 6), (4, 4, 3), (2, 8, 3), (8, 2, 3), (4, 6, 2), (6, 2, 4)]
    assert len({content_hash(BYTES.reshape(shape)) for shape in shapes}) == len(shapes)


def test_one_channel_as_a_third_axis_is_the_same_image():
    assert content_hash(BYTES.reshape(6, 8, 1)) == content_hash(BYTES.reshape(6, 8))


def test_one_changed_pixel_is_another_image():
    changed = BYTES.copy()
    changed[47] += 1
    assert content_hash(changed.reshape(6, 8)) != content_hash(BYTES.reshape(6, 8))


@pytest.mark.parametrize("shape", [(6, 8), (4, 4, 3), (3, 4, 4)])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_a_file_and_an_array_of_the_same_pixels_have_the_same_hash(shape, format):
    pixels = BYTES.reshape(shape)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    assert content_hash(load_image(read_header(file.getvalue(), max_pixels=100))) == content_hash(pixels)


def test_the_order_in_memory_does_not_matter():
    pixels = BYTES.reshape(4, 4, 3)
    assert content_hash(np.asfortranarray(pixels)) == content_hash(pixels)
