"""12 bits in files of 16: what the file says, what its values suggest, the same pixels in training and serving."""

import numpy as np
import pytest
from PIL import Image

from gapgate.data import depth
from gapgate.data.depth import highest_of, white_of
from gapgate.data.picture.opening import open_image
from gapgate.data.preprocess import preprocess
from gapgate.data.transform import Transform
from gapgate.settings.sections import PreprocessSettings


@pytest.mark.parametrize(
    ("highest", "white", "says_so"),
    [
        ([], 65_535, False),
        ([None], 65_535, False),
        ([40_000, 3_000], 65_535, False),
        ([3_000, None, 700], 4_095, True),
        ([4_096], 16_383, True),
        ([255], 255, True),
        ([70_000], 65_535, False),
    ],
)
def test_white_is_the_next_usual_depth(highest, white, says_so):
    found, note = white_of(highest)
    assert found == white
    assert bool(note) == says_so


def test_a_tiff_file_that_says_how_far_its_values_go_does_not_count_for_the_others(tmp_path):
    image = Image.fromarray(np.full((4, 4), 700, np.uint16))
    image.save(tmp_path / "said.tif", tiffinfo={281: (4_095,)})
    image.save(tmp_path / "silent.tif")
    image.convert("I").convert("L").save(tmp_path / "gray.png")
    image.save(tmp_path / "wrong.tif", tiffinfo={281: (255,)})
    names = ("said.tif", "silent.tif", "gray.png", "wrong.tif")
    assert [highest_of(lambda name=name: tmp_path / name, 100) for name in names] == [None, 700, None, 700]
    assert open_image(tmp_path / "said.tif", max_pixels=100).getpixel((0, 0)) == 44  # 255 · 700 / 4,095 = 43.6


@pytest.mark.parametrize(("white", "value", "gray"), [(4_095, 4_095, 255), (4_095, 2_048, 128), (4_095, 9_000, 255)])
def test_values_are_scaled_to_white(tmp_path, white, value, gray):
    Image.fromarray(np.full((4, 4), value, np.uint16)).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png", max_pixels=100, white=white).getpixel((0, 0)) == gray


def test_twelve_bits_use_the_whole_range_alike_in_training_and_serving(tmp_path):
    for number in range(20):
        values = np.random.default_rng(number).integers(0, 4_000, (16, 16), np.uint16)
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
    (tmp_path / "splits").mkdir()
    settings = PreprocessSettings(stratify=True, val_fraction=0.2, size_px=8)
    splits = preprocess(settings, tmp_path / "data", tmp_path / "splits")
    assert splits.info["notes"][0].startswith("the 16-bit images hold values up to 3,998, so they are taken for 12-bit")
    transform = Transform.from_file(splits.path / "transform.json")
    assert transform.white == 4_095
    assert splits.images.max() > 128
    np.testing.assert_array_equal(splits.images[0], transform.decode(tmp_path / "data" / "a" / "0.png"))


@pytest.mark.parametrize(("highest", "levels"), [((63, 5), 64), ((64, 5), None), ((None, 7), 8), ((None,), None)])
def test_colour_files_of_up_to_fourteen_bits_are_said_to_be_dark(monkeypatch, highest, levels):
    # The upper byte of 14 bits is 63: 16,383 / 256.
    found = iter(highest)
    monkeypatch.setattr(depth, "_highest_colour", lambda file, max_pixels: next(found))
    said = depth.dark_colours([None] * len(highest), 100)
    assert (
        said.startswith(f"the 16-bit colour PNG files hold no more than {levels} of 256 levels") if levels else not said
    )
