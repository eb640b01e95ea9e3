"""Golden images: what a file decodes to, and what the network then sees."""

import io
import re
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from pydantic import ValidationError

from gapgate.data import transform as transforms
from gapgate.data.picture.colour import DISPLAY_P3, matrix_profile
from gapgate.data.picture.modes import on_background
from gapgate.data.picture.opening import load_image, open_image, read_header
from gapgate.data.transform import Transform
from gapgate.errors import ArtifactError, DataError, ImageError, ImageFault
from tests.processor_time import processor_s

CORNERS = np.array([[10, 60, 110], [160, 200, 250]], np.uint8).repeat(8, axis=0).repeat(8, axis=1)  # (16, 24)


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def read(data, max_pixels=1_000_000, fill=0):
    """The pixels of an image file on a plain background."""
    return np.asarray(on_background(open_image(data, max_pixels=max_pixels), fill))


def stored_as(upright, orientation):
    """The pixels that a camera stores so that EXIF `orientation` gives `upright` (EXIF 2.32, tag 0x0112)."""
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_every_exif_orientation_is_upright(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
    image = Image.fromarray(np.ascontiguousarray(stored_as(CORNERS, orientation)))
    pixels = read(encoded(image, format, exif=exif, **options))
    gray = pixels if pixels.ndim == 2 else pixels[:, :, 0]
    assert gray.shape == CORNERS.shape
    np.testing.assert_allclose(gray, CORNERS, atol=3 if format == "JPEG" else 0)


@pytest.mark.parametrize("format", ["PNG", "BMP", "GIF", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_decode_to_the_same_pixels(format):
    rgb = np.stack([CORNERS, 255 - CORNERS, CORNERS // 2], axis=2)
    pixels = read(encoded(Image.fromarray(rgb), format, **({"lossless": True} if format == "WEBP" else {})))
    np.testing.assert_array_equal(pixels, rgb)


def test_a_palette_image_decodes_to_its_colours():
    image = Image.new("P", (2, 2))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2, 1])
    expected = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 255, 0]]]
    np.testing.assert_array_equal(read(encoded(image)), expected)


def test_a_transparent_palette_entry_shows_the_fill():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putdata([0, 1])
    np.testing.assert_array_equal(read(encoded(image, transparency=0), fill=9), [[[9, 9, 9], [0, 255, 0]]])


@pytest.mark.parametrize("fill", [0, 128, 255])
def test_alpha_is_composited_on_the_fill(fill):
    rgba = np.array([[[200, 100, 50, 0], [200, 100, 50, 255], [200, 100, 50, 128]]], np.uint8)
    pixels = read(encoded(Image.fromarray(rgba)), fill=fill)
    np.testing.assert_array_equal(pixels[0, 0], [fill] * 3)
    np.testing.assert_array_equal(pixels[0, 1], [200, 100, 50])
    mixed = np.array([200, 100, 50]) * 128 / 255 + fill * 127 / 255
    np.testing.assert_allclose(pixels[0, 2], mixed, atol=1)


def test_gray_with_alpha_stays_gray():
    image = Image.fromarray(np.array([[[200, 0], [200, 255]]], np.uint8))
    assert image.mode == "LA"
    np.testing.assert_array_equal(read(encoded(image), fill=7), [[7, 200]])


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(format):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    np.testing.assert_allclose(read(encoded(image, format))[4, 4], [255, 0, 0], atol=3)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_the_nearest_of_eight(format):
    values = np.array([[0, 128, 129, 257, 32_896, 65_406, 65_407, 65_535]], np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(read(encoded(Image.fromarray(values), format)), expected)


def test_a_sixteen_bit_pgm_is_scaled_too():
    data = b"P5 3 1 65535\n" + struct.pack(">3H", 0, 32_896, 65_535)
    np.testing.assert_array_equal(read(data), [[0, 128, 255]])


def test_one_bit_becomes_black_and_white():
    bits = np.array([[True, False, True]])
    np.testing.assert_array_equal(read(encoded(Image.fromarray(bits))), [[255, 0, 255]])


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read(data)[0, 0], [255, 0, 0])


def png_bomb(side):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [8000, 12_000, 60_000], ids=["64 MP", "144 MP", "3600 MP"])
def test_a_decompression_bomb_costs_less_than_a_picture_of_one_megapixel_and_no_memory(side):
    data, picture = png_bomb(side), encoded(Image.effect_noise((1000, 1000), 64))

    def refuse():
        with pytest.raises(ImageError, match=r"limit of 50,000,000 pixels"):
            read(data, max_pixels=50_000_000)

    read(picture)  # imports done
    assert processor_s(refuse) < processor_s(lambda: read(picture))
    tracemalloc.start()
    refuse()
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1_000_000


def test_an_image_of_exactly_the_limit_is_read():
    data = encoded(Image.new("L", (10, 10)))
    assert read(data, max_pixels=100).shape == (10, 10)
    with pytest.raises(ImageError, match="10 x 10 pixels exceed the limit of 99 pixels"):
        read(data, max_pixels=99)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_a_truncated_file_is_refused_with_a_short_reason(format):
    rng = np.random.default_rng(0)
    data = encoded(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), format)
    with pytest.raises(ImageError) as error:
        read(data[: len(data) * 2 // 3])
    assert len(str(error.value)) < 160
    assert "\n" not in str(error.value)
    assert " at 0x" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"not an image", b"%PDF-1.7", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_other_bytes_are_refused(data):
    with pytest.raises(ImageError):
        read(data)


def test_a_format_outside_the_whitelist_is_refused():
    with pytest.raises(ImageError, match="not an image in one of the formats"):
        read(encoded(Image.new("RGB", (8, 8)), "TGA"))


def test_floating_point_pixels_are_refused():
    with pytest.raises(ImageError, match="floating-point"):
        read(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


def test_random_damage_never_raises_anything_but_image_error():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    for format in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        data = np.frombuffer(encoded(image, format), np.uint8)
        for _ in range(60):
            damaged = data.copy()
            damaged[rng.integers(0, min(len(data), 200), 4)] = rng.integers(0, 256, 4)
            try:
                pixels = read(damaged.tobytes(), max_pixels=100_000)
            except ImageError:
                continue
            assert pixels.dtype == np.uint8


def test_bytes_and_path_decode_alike(tmp_path):
    data = encoded(Image.fromarray(CORNERS))
    (tmp_path / "a.png").write_bytes(data)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), read(data))


def transform(**options):
    return Transform(**{"size_px": 8, "mode": "rgb", **options})


@pytest.mark.parametrize("fit", ["pad", "crop"])
@pytest.mark.parametrize("resample", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 40), (40, 1), (7, 9), (8, 8), (300, 200, 3), (5, 5, 4), (9, 4, 2), (3, 5, 1)]
)
@pytest.mark.parametrize("mode", ["gray", "rgb"])
def test_every_shape_becomes_the_square(fit, resample, shape, mode):
    pixels = np.full(shape, 100, np.uint8)
    result = transform(fit=fit, resample=resample, mode=mode).apply(pixels)
    assert result.shape == (8, 8, 1 if mode == "gray" else 3)
    assert result.dtype == np.uint8


def test_padding_is_centred_and_has_the_fill():
    result = transform(size_px=8, mode="gray", fill=5).apply(np.full((10, 20), 200, np.uint8))
    expected = np.full((8, 8), 5)
    expected[2:6] = 200
    np.testing.assert_array_equal(result[:, :, 0], expected)


def test_cropping_takes_the_central_square():
    pixels = np.zeros((8, 16), np.uint8)
    pixels[:, 4:12] = 200
    np.testing.assert_array_equal(transform(mode="gray", fit="crop").apply(pixels), np.full((8, 8, 1), 200))


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [
        ((5, 8), (1, 6), (0, 8)),  # three rows of padding: one above, two below
        ((8, 5), (0, 8), (1, 6)),
        ((16, 6), (0, 8), (2, 5)),  # 6 · 8 / 16 = 3
        ((16, 5), (0, 8), (2, 5)),  # 2.5 is rounded up
        ((32, 9), (0, 8), (3, 5)),  # 2.25 is rounded down
        ((800, 3), (0, 8), (3, 4)),  # one column at least
        ((3, 800), (3, 4), (0, 8)),
        ((2, 4), (2, 6), (0, 8)),  # enlarged
    ],
)
def test_the_longer_side_fits_and_the_rest_is_fill(shape, rows, columns):
    expected = np.full((8, 8), 9)
    expected[slice(*rows), slice(*columns)] = 200
    result = transform(mode="gray", fill=9).apply(np.full(shape, 200, np.uint8))
    np.testing.assert_array_equal(result[:, :, 0], expected)


@pytest.mark.parametrize(("shape", "rows", "columns"), [((8, 11), (0, 8), (1, 9)), ((13, 8), (2, 10), (0, 8))])
def test_a_crop_of_an_odd_rest_leaves_the_larger_part_below_or_to_the_right(shape, rows, columns):
    pixels = np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape)
    result = transform(mode="gray", fit="crop").apply(pixels)
    np.testing.assert_array_equal(result[:, :, 0], pixels[slice(*rows), slice(*columns)])


@pytest.mark.parametrize(
    ("options", "is_allowed"),
    [
        *(({"size_px": size}, ok) for size, ok in ((7, False), (8, True), (512, True), (513, False))),
        *(({"fill": fill}, ok) for fill, ok in ((-1, False), (0, True), (255, True), (256, False))),
    ],
)
def test_settings_have_their_limits(options, is_allowed):
    if is_allowed:
        assert transform(**options)
    else:
        with pytest.raises(ValidationError):
            transform(**options)


def test_the_settings_that_nobody_gives():
    settings = transform()
    assert (settings.fit, settings.fill, settings.resample, settings.max_pixels) == ("pad", 0, "bilinear", 50_000_000)
    assert (transform(mode="gray").channels, transform().channels) == (1, 3)


@pytest.mark.parametrize(("value", "expected"), [(-1, None), (0, 0), (65_535, 255), (65_536, None)])
def test_32_bit_pixels_are_taken_where_they_have_the_range_of_16(value, expected):
    pixels = Image.fromarray(np.full((8, 8), value, np.int32))
    if expected is None:
        with pytest.raises(ImageError, match="32-bit pixels have no fixed range"):
            transform(mode="gray").apply_to_image(pixels)
    else:
        assert (transform(mode="gray").apply_to_image(pixels) == expected).all()


@pytest.mark.parametrize("side", [16, 24, 31, 32, 40, 48, 64, 100])
def test_a_large_image_is_averaged_to_twice_its_new_size_before_the_filter(side):
    """Pillow's own `reducing_gap`, whose result depends on where it begins."""
    image = Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side), dtype=np.uint8))
    expected = image.resize((8, 8), Image.Resampling.BICUBIC, reducing_gap=2.0)
    result = transform(mode="gray", resample="bicubic").apply_to_image(image)
    np.testing.assert_array_equal(result[:, :, 0], np.asarray(expected))


def test_a_strip_of_ten_million_pixels_is_padded_without_its_square():
    strip = np.zeros((1, 10_000_000), np.uint8)
    assert transform(size_px=64).apply(strip).shape == (64, 64, 3)


@pytest.mark.parametrize("options", [{"fit": "pad"}, {"fit": "pad", "margin_px": 8}, {"fit": "crop"}])
def test_pixels_that_fit_are_returned_as_they_are(options):
    pixels = np.zeros((8, 8, 3), np.uint8)
    assert transform(**options).apply(pixels) is pixels
    gray = np.zeros((8, 8), np.uint8)
    assert np.shares_memory(transform(mode="gray", **options).apply(gray), gray)


@pytest.mark.parametrize(("mode", "shape"), [("rgb", (8, 8, 3)), ("gray", (8, 8))])
def test_a_crop_takes_the_border_off_pixels_of_the_right_size_too(mode, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    cropped = transform(mode=mode, fit="crop", margin_px=8, resample="nearest").apply(pixels)
    # 8 / (8 + 8) of the side is kept.
    np.testing.assert_array_equal(cropped.reshape(shape), pixels[2:6, 2:6].repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 2), (8, 8, 3), (8, 8, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint16])
def test_an_array_of_whole_numbers_is_taken_whatever_its_type(shape, dtype):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pixels.flat[:2] = 0, 255
    np.testing.assert_array_equal(transform().apply_to_array(pixels.astype(dtype)), transform().apply(pixels))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8), np.float32),
        np.zeros((8, 8), bool),
        np.full((8, 8), -1),
        np.full((8, 8), 256),
        *(np.zeros(shape, np.uint8) for shape in ((64,), (8, 8, 3, 1), (8, 8, 0), (8, 8, 5), (0, 8), (0, 8, 3))),
    ],
    ids=[
        "floats",
        "booleans",
        "below 0",
        "above 255",
        *("1-D", "4-D", "no channels", "5 channels", "empty", "empty RGB"),
    ],
)
def test_an_array_that_is_no_image_is_refused_with_its_type_and_shape(array):
    wanted = f"an array of {array.dtype} with the shape {array.shape} is not an image; give"
    with pytest.raises(DataError, match=re.escape(wanted)):
        transform().apply_to_array(array)


def test_gray_is_repeated_and_colour_becomes_luma():
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8)
    np.testing.assert_array_equal(transform().apply(gray), gray[:, :, None].repeat(3, axis=2))
    colour = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    luma = colour @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    np.testing.assert_allclose(transform(mode="gray").apply(colour)[:, :, 0], luma, atol=1)


def test_a_file_and_its_pixels_give_the_same_result():
    pixels = np.random.default_rng(0).integers(0, 256, (300, 420, 4), dtype=np.uint8)
    settings = transform(size_px=32, fill=77)
    from_file = settings.decode(encoded(Image.fromarray(pixels)))
    np.testing.assert_array_equal(from_file, settings.apply(pixels))


def test_block_averaging_before_the_filter_changes_little():
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8))
    photo = small.resize((640, 640), Image.Resampling.BICUBIC)
    fair = np.asarray(photo.resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    ours = transform(size_px=32, mode="gray").apply(np.asarray(photo))[:, :, 0]
    assert np.abs(ours - fair).mean() < 1


def test_a_transform_survives_its_file(tmp_path):
    settings = transform(fit="crop", fill=3, mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 0.25))
    settings.write(tmp_path / "transform.json")
    assert Transform.from_file(tmp_path / "transform.json") == settings


@pytest.mark.parametrize(("version", "expected"), [(1, (180, 120, 90)), (2, (192, 117, 83))])
@pytest.mark.parametrize("alpha", [None, 255, 128])
def test_a_colour_profile_counts_from_version_2_on(version, expected, alpha):
    """180, 120, 90 of Display P3 are 192, 117, 83 of sRGB, by the matrices and curves of both."""
    pixels = np.full((8, 8, 3 if alpha is None else 4), (180, 120, 90, alpha)[: 3 if alpha is None else 4], np.uint8)
    profile = matrix_profile(DISPLAY_P3, 2.2)
    found = transform(version=version).decode(encoded(Image.fromarray(pixels), icc_profile=profile))
    share = 1 if alpha is None else alpha / 255
    np.testing.assert_allclose(found[0, 0], np.array(expected) * share, atol=1)


@pytest.mark.parametrize(("mode", "sizes"), [("RGB", [(8, 8)]), ("RGBA", [(160, 160)])])
def test_a_profile_is_converted_once_and_after_resizing_unless_a_background_is_needed(monkeypatch, mode, sizes):
    converted, convert = [], transforms.to_srgb
    monkeypatch.setattr(transforms, "to_srgb", lambda image: (converted.append(image.size), convert(image))[1])
    transform().decode(encoded(Image.new(mode, (160, 160)), icc_profile=matrix_profile(DISPLAY_P3, 2.2)))
    assert converted == sizes


@pytest.mark.parametrize(("text", "version"), [("", 1), (', "version": 1', 1), (', "version": 2', 2)])
def test_a_file_without_a_version_is_of_the_first(tmp_path, text, version):
    (tmp_path / "transform.json").write_text(f'{{"size_px": 8, "mode": "rgb"{text}}}')
    assert Transform.from_file(tmp_path / "transform.json").version == version


@pytest.mark.parametrize("text", ["{}", "not json", '{"size_px": 4, "mode": "rgb"}'])
def test_a_file_that_is_no_transform_is_an_artifact_error(tmp_path, text):
    (tmp_path / "transform.json").write_text(text)
    with pytest.raises(ArtifactError, match="is not a transform"):
        Transform.from_file(tmp_path / "transform.json")


def test_a_missing_transform_is_an_artifact_error(tmp_path):
    with pytest.raises(ArtifactError, match="is missing"):
        Transform.from_file(tmp_path / "transform.json")


def test_what_is_wrong_with_a_transform_is_the_first_thing_found(tmp_path):
    (tmp_path / "transform.json").write_text('{"size_px": 4}')  # and the mode is missing
    with pytest.raises(ArtifactError, match=r"is not a transform \(Input should be greater than or equal to 8\)"):
        Transform.from_file(tmp_path / "transform.json")


def test_the_rest_of_what_a_camera_noted_is_not_written_anew_when_an_image_is_turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x013E] = tuple(TiffImagePlugin.IFDRational(number, 7) for number in range(20_000))
    data = encoded(Image.fromarray(CORNERS), exif=exif)
    header = read_header(data, max_pixels=1_000)
    assert processor_s(lambda: load_image(header)) < processor_s(exif.tobytes) / 10  # 0.3 ms against 150 ms
    assert header.size == CORNERS.shape


class Damaged(Image.Image):
    """An image whose decoder raises an error."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def load(self):
        raise self.error


@pytest.mark.parametrize(
    ("error", "fault", "reason"),
    [
        (PermissionError(13, "Permission denied", "/a/b"), ImageFault.UNREADABLE, "cannot be read: Permission denied"),
        (OSError("image file is truncated (3 bytes)"), ImageFault.TRUNCATED, "the image is truncated"),
        (SyntaxError("Truncated File Read"), ImageFault.TRUNCATED, "the image is truncated"),
        (SyntaxError("broken\n  PNG file"), ImageFault.DAMAGED, "the image is corrupt: broken PNG file"),
        (OSError("x" * 60 + "y" * 60), ImageFault.DAMAGED, "the image is corrupt: " + "x" * 60 + "y" * 40),
        (OSError(), ImageFault.DAMAGED, "the image is corrupt: OSError"),
        (KeyError("at 0x7f"), ImageFault.DAMAGED, "the image is corrupt: KeyError"),
    ],
)
def test_damage_is_named_by_its_kind_and_without_paths_or_addresses(error, fault, reason):
    with pytest.raises(ImageError) as raised:
        load_image(Damaged(error))
    assert (raised.value.kind, raised.value.reason) == (fault, reason)


@pytest.mark.parametrize("error", [MemoryError(), ImageError(ImageFault.TOO_COSTLY, "too much")])
def test_a_full_memory_is_no_damage_and_a_named_fault_stays_what_it_is(error):
    with pytest.raises(type(error)) as raised:
        load_image(Damaged(error))
    assert raised.value is error


def test_an_image_file_that_is_not_there_cannot_be_read(tmp_path):
    with pytest.raises(ImageError, match="cannot be read: No such file or directory") as raised:
        read_header(tmp_path / "a.png", max_pixels=1)
    assert raised.value.kind is ImageFault.UNREADABLE
