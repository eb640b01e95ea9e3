"""Near-duplicates: what a copy may look like, and what is no copy."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sklearn.datasets import load_digits, load_sample_images

from gapgate.data.leaks import near_duplicates
from gapgate.data.leaks.near_duplicates import detail_correlation, near_pairs


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


def test_pairs_are_the_rows_of_their_images_in_order_however_many_are_alike():
    photos = _photos(4)
    alike = [np.asarray(ImageEnhance.Brightness(photos[3]).enhance(1 + 0.02 * n)) for n in range(7)]
    images = np.stack([np.asarray(photos[0]), *alike, np.asarray(photos[2])])
    found = near_pairs(images, np.arange(9)).tolist()
    assert found == sorted(found)
    # Each has the four nearest of those after it: 4 + 4 + 4 + 3 + 2 + 1.
    assert len(found) == 18
    assert {row for pair in found for row in pair} == set(range(1, 8))
    assert near_pairs(images, np.array([0, 3, 6, 8])).tolist() == [[3, 6]]


def _shifted(pixels):
    """Two windows of one picture of noise on a slope, so many pixels apart: alike in the rough, and in the fine where
    they are laid one on the other."""
    slope = np.add.outer(np.arange(40), np.arange(40)) * 2.5 + 20
    noise = np.random.default_rng(0).normal(scale=12, size=(40, 40))
    whole = np.clip(slope + noise, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    return np.stack([whole[:32, :32], whole[pixels : 32 + pixels, pixels : 32 + pixels]])


@pytest.mark.parametrize(("pixels", "is_found"), [(0, True), (1, True), (2, True), (3, False)])
def test_a_picture_that_is_shifted_by_two_pixels_is_found(pixels, is_found):
    images = _shifted(pixels)
    assert near_pairs(images, np.arange(2)).tolist() == ([[0, 1]] if is_found else [])
    one, other = images[:, :, :, 0].astype(np.float32)
    noise = np.random.default_rng(1).normal(size=(40, 40)).astype(np.float32)
    one, other = noise[None, :32, :32], noise[None, pixels : 32 + pixels, :32]
    assert (detail_correlation(one, other, 2)[0] > 0.99) == is_found


def test_gray_pictures_are_not_shifted_and_need_more_details_in_common():
    gray = _shifted(1)[..., :1]
    assert near_pairs(gray, np.arange(2)).tolist() == []
    # Half as much new noise: the details correlate to about 0.9, enough in colour alone.
    noisy = np.clip(gray[:1] + np.random.default_rng(2).normal(scale=6, size=gray[:1].shape), 0, 255).astype(np.uint8)
    pair = np.concatenate([gray[:1], noisy])
    assert near_pairs(pair, np.arange(2)).tolist() == []
    assert near_pairs(pair.repeat(3, axis=3), np.arange(2)).tolist() == [[0, 1]]


@pytest.mark.parametrize(("level", "is_cut"), [(0, True), (2, True), (3, False)])
def test_bars_of_one_level_are_cut_off_before_pictures_are_compared(level, is_cut):
    content = np.random.default_rng(0).integers(20, 230, (32, 64, 3), np.uint8)
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:48] = content
    image[[0, 1], [5, 6]] = level  # not quite of one level
    found = near_duplicates._thumbnails(image[None], np.array([0]))[0]
    gray = content @ np.array([0.299, 0.587, 0.114], np.float32)
    cut = np.asarray(Image.fromarray(gray).resize((32, 32), Image.Resampling.BOX))
    assert np.allclose(found, cut, atol=1e-3) == is_cut
    plain = np.full((64, 64), 9, np.float32)
    assert near_duplicates._without_bars(plain).shape == (64, 64)


def test_one_gray_level_in_a_pixel_is_no_detail():
    images = np.full((2, 32, 32, 3), 200, np.uint8)
    images[:, 8:12, 20:24] += 1  # the same in both
    assert len(near_pairs(images, np.arange(2))) == 0


@pytest.mark.parametrize("values", [2**24, 9, 20])
def test_the_nearest_of_those_after_it_are_the_candidates_of_an_image_in_blocks_of_any_size(monkeypatch, values):
    monkeypatch.setattr(near_duplicates, "_BLOCK_VALUES", values)
    # On a half circle: the nearer the angle, the higher the cosine.
    angles = np.array([0.0, 0.5, 0.1, 0.4, 0.2, 0.3, 0.6, 2.5])
    rough = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = [tuple(pair) for part in near_duplicates._candidates(rough, 0.8) for pair in part.tolist()]
    after = {row: sorted(range(row + 1, 8), key=lambda at: abs(angles[at] - angles[row])) for row in range(8)}
    near = {row: [at for at in some if np.cos(angles[at] - angles[row]) > 0.8][:4] for row, some in after.items()}
    assert sorted(found) == sorted((row, at) for row, some in near.items() for at in some)
