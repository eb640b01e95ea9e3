"""Near-duplicates: what a copy may look like, and what is no copy."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sklearn.datasets import load_digits, load_sample_images

from gapgate.data.leaks.near_duplicates import near_pairs


def _photos(count=12, side=64):
    """Different crops of two real photos, and one beside another."""
    large = [Image.fromarray(image) for image in load_sample_images().images]
    return [
        large[n % 2].crop((100 * (n // 2), 120, 100 * (n // 2) + 100, 220)).resize((side, side)) for n in range(count)
    ]


def _jpeg(image):
    data = io.BytesIO()
    image.save(data, "JPEG", quality=40)
    return Image.open(data)


COPIES = {
    "compressed": _jpeg,
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "smaller": lambda image: image.resize((40, 40)).resize((64, 64)),
    "shifted": lambda image: image.crop((2, 2, 64, 64)).resize((64, 64)),
    "gray": lambda image: image.convert("L").convert("RGB"),
}


@pytest.mark.parametrize("change", COPIES)
def test_a_changed_copy_is_found_and_no_other_image(change):
    photos = _photos()
    images = np.stack([np.asarray(image) for image in [*photos, COPIES[change](photos[3])]])
    assert near_pairs(images, np.arange(len(images))).tolist() == [[3, 12]]


def test_rows_that_are_not_asked_for_are_not_compared():
    images = np.stack([np.asarray(image) for image in [*_photos(4), _photos(1)[0]]])
    assert near_pairs(images, np.array([1, 2, 3, 4])).tolist() == []


def test_different_digits_are_no_copies():
    images = (load_digits().images * 15.9).astype(np.uint8)[..., None]
    pairs = near_pairs(images, np.arange(len(images)))
    assert len(np.unique(pairs)) <= 0.01 * len(images)


def test_blank_images_are_no_near_duplicates():
    images = np.full((3, 32, 32, 3), 255, np.uint8)
    images[1:] -= 1
    assert len(near_pairs(images, np.arange(3))) == 0
