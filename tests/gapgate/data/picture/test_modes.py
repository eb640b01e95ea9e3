"""Pixels of unusual kinds to 8 bits, and colour profiles to sRGB, by formula."""

import numpy as np
import pytest
from PIL import Image

from gapgate.data.picture import colour
from gapgate.data.picture.modes import declare, declared_white, in_eight_bits, on_background

SRGB = ((0.4360747, 0.2225045, 0.0139322), (0.3850649, 0.7168786, 0.0971045), (0.1430804, 0.0606169, 0.7141733))
"""Primaries of sRGB as XYZ under D50 (IEC 61966-2-1, adapted by Bradford's matrix)."""


def deep(*values):
    """A gray image of 16 bits with these values."""
    return Image.fromarray(np.array([values], np.uint16))


@pytest.mark.parametrize(
    ("white", "values", "expected"),
    [
        (65_535, (0, 128, 129, 65_535), (0, 0, 1, 255)),  # 128.5 is half of the first step
        (4_095, (0, 8, 9, 2_048, 4_095, 5_000), (0, 0, 1, 128, 255, 255)),
        (1_023, (2, 3, 511, 1_023), (0, 1, 127, 255)),
    ],
)
def test_values_go_to_the_nearest_of_256_and_none_beyond_white(white, values, expected):
    assert np.asarray(in_eight_bits(deep(*values), white)).ravel().tolist() == list(expected)


def test_white_is_zero_turns_the_values_round_and_a_declared_white_counts_before_that_of_the_others():
    image = deep(0, 1000, 3000)
    declare(image, {262: 0, 281: (3000,), 258: (16,)})
    assert declared_white(image) == 3000
    assert np.asarray(in_eight_bits(image, 65_535)).ravel().tolist() == [255, 170, 0]
    # A package of the first version ignores what a file declares.
    assert np.asarray(in_eight_bits(image, 65_535, version=1)).ravel().tolist() == [0, 4, 12]


@pytest.mark.parametrize(
    ("tags", "white"),
    [
        ({281: (3000,)}, 3000),
        ({341: (3500,)}, 3500),
        ({281: (3000,), 341: (3500,)}, 3000),
        ({281: (2999,)}, 0),  # less than the file holds
        ({281: (65_535,)}, 0),  # written without a thought
        ({258: (12,)}, 4095),
        ({258: (12,), 281: (65_535,)}, 4095),  # more than twelve bits hold
        ({281: ("many",)}, 0),
        ({}, 0),
    ],
)
def test_a_file_declares_its_white_by_its_tags(tags, white):
    image = deep(0, 3000)
    declare(image, tags)
    assert declared_white(image) == white


def test_the_transparent_value_is_compared_with_all_sixteen_bits_and_a_profile_stays():
    image = deep(1000, 1001, 40_000)
    image.info |= {"transparency": 1000, "icc_profile": b"profile"}
    found = in_eight_bits(image, 65_535)
    assert found.mode == "LA"
    assert np.asarray(found)[0, :, 1].tolist() == [0, 255, 255]
    assert found.info["icc_profile"] == b"profile"


def test_a_transparent_colour_of_sixteen_bits_is_that_of_its_upper_bytes():
    image = Image.fromarray(np.array([[[1, 2, 3], [1, 2, 4]]], np.uint8))
    image.info["transparency"] = (0x01FF, 0x0200, 0x0355)
    assert np.asarray(in_eight_bits(image, 65_535))[0, :, 3].tolist() == [0, 255]


@pytest.mark.parametrize(("fill", "expected"), [(0, [200, 100, 0]), (255, [200, 227, 255])])
def test_what_is_transparent_shows_the_background(fill, expected):
    pixels = np.array([[[200, 255], [200, 128], [200, 0]]], np.uint8)
    found = np.asarray(on_background(Image.fromarray(pixels, "LA"), fill)).ravel().astype(int)
    assert np.abs(found - expected).max() <= 1


def profiled(value, profile):
    image = Image.new("RGB", (2, 2), (value, value, value))
    image.info["icc_profile"] = profile
    return image


@pytest.mark.parametrize("gamma", [1.8, 2.2])
def test_a_profile_that_differs_from_srgb_in_its_gamma_alone_is_converted(gamma):
    for value in (26, 51, 128, 255):
        linear = (value / 255) ** gamma
        # The curve of sRGB (IEC 61966-2-1).
        encoded = 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
        found = np.asarray(colour.to_srgb(profiled(value, colour.matrix_profile(SRGB, gamma))))[0, 0].astype(int)
        assert np.abs(found - 255 * encoded).max() <= 1.5, value


def test_a_profile_of_other_pixels_or_of_megabytes_is_ignored_as_browsers_do():
    profile = colour.matrix_profile(colour.DISPLAY_P3, 2.2)
    assert colour.conversion(profiled(100, profile)) is not None
    long = profile + bytes(colour.MAX_PROFILE_BYTES - len(profile))
    assert colour.conversion(profiled(100, long)) is not None
    assert colour.conversion(profiled(100, long + b"\0")) is None
    gray = Image.new("L", (2, 2), 100)
    gray.info["icc_profile"] = profile
    assert colour.conversion(gray) is None


def test_alpha_stays_as_it_is_where_colours_are_converted():
    image = Image.fromarray(np.array([[[200, 50, 50, 77], [10, 220, 30, 255]]], np.uint8), "RGBA")
    image.info["icc_profile"] = colour.matrix_profile(colour.DISPLAY_P3, 2.2)
    found = colour.to_srgb(image)
    assert np.asarray(found)[0, :, 3].tolist() == [77, 255]
    assert np.asarray(found)[0, 0, 0] > 200  # a red of Display P3 is more than that of sRGB
    assert "icc_profile" not in found.info
