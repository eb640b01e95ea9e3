"""The contact sheet, from images whose pixels are known."""

from functools import partial

import numpy as np
import pytest
from PIL import Image

from gapgate.data.contact_sheet import MAX_CLASSES, ClassSample, contact_sheet
from gapgate.data.tiles import save_sheets

COUNTS = {"train": 12, "val": 3, "test": 1}


def sample(name, tone, size_px=28, channels=1, count=10):
    return ClassSample(name, COUNTS, [np.full((size_px, size_px, channels), tone, np.uint8)] * count)


@pytest.mark.parametrize("size_px", [8, 28, 64, 224])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_class_has_a_row_of_its_images(size_px, channels):
    tones = [40, 120, 200]
    sheet = contact_sheet([sample(str(tone), tone, size_px, channels) for tone in tones])
    pixels = np.asarray(sheet.convert("L"))
    for row, tone in zip(np.array_split(pixels, 3), tones, strict=True):
        assert (row == tone).mean() > 0.3
        assert (row == tone).mean() > 10 * sum((row == other).mean() for other in tones if other != tone)


def test_pixels_of_a_tiny_image_become_squares():
    checks = (np.indices((8, 8)).sum(axis=0) % 2 * 200).astype(np.uint8)[:, :, None]
    pixels = np.asarray(contact_sheet([ClassSample("checks", COUNTS, [checks])]).convert("L"))
    tile = pixels[20:84, -84:-20]
    np.testing.assert_array_equal(tile[::8, ::8], checks[:, :, 0])
    np.testing.assert_array_equal(tile, checks[:, :, 0].repeat(8, axis=0).repeat(8, axis=1))


def test_the_name_and_the_counts_are_drawn():
    plain = contact_sheet([sample("a", 100)])
    named = contact_sheet([sample("b", 100)])
    counted = contact_sheet([ClassSample("a", {**COUNTS, "train": 99}, sample("a", 100).images)])
    assert plain.tobytes() != named.tobytes()
    assert plain.tobytes() != counted.tobytes()
    assert plain.tobytes() == contact_sheet([sample("a", 100)]).tobytes()


def test_a_class_without_training_images_and_a_long_name_are_drawn():
    assert contact_sheet([sample("x" * 300, 9), ClassSample("empty", COUNTS, [])]).width < 1200


def test_a_sheet_of_many_classes_stays_of_one_height():
    heights = [contact_sheet([sample(str(n), 9, 8, count=1) for n in range(total)]).height for total in (60, 1000)]
    assert heights[0] == heights[1] < MAX_CLASSES * 80


def test_a_sheet_is_saved_for_light_pages_and_with_the_same_images_for_dark_ones(tmp_path):
    save_sheets(partial(contact_sheet, [sample("a", 100)]), tmp_path / "sheet.png")
    light, dark = (np.asarray(Image.open(tmp_path / name).convert("L")) for name in ("sheet.png", "dark/sheet.png"))
    assert light.shape == dark.shape
    assert (light[0, 0], dark[0, 0]) == (255, 25)
    assert ((light == 100) & (dark == 100)).sum() > 1000
