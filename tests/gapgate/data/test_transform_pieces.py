"""A large image is converted piece by piece; the pixels are those of the whole image converted at once."""

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gapgate.data import transform
from gapgate.data.picture.modes import on_background
from gapgate.data.picture.opening import open_image
from gapgate.data.transform import Transform
from gapgate.errors import ImageError


def at_once(options: Transform, data: bytes) -> Image.Image:
    """The transform without padding, by Pillow's own `resize` with its `reducing_gap`."""
    image = on_background(open_image(data, max_pixels=10**6), options.fill)
    if options.mode == "gray":
        image = image.convert("L")
    width, height = image.size
    if options.fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    scale = options.size_px / max(image.size)
    inner = tuple(max(1, int(length * scale + 0.5)) for length in image.size)
    return image.resize(inner, Image.Resampling[options.resample.upper()], reducing_gap=2.0)


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(MODES),
    st.integers(1, 300),
    st.integers(1, 300),
    st.builds(
        Transform,
        size_px=st.sampled_from([8, 16, 32]),
        mode=st.sampled_from(["gray", "rgb"]),
        fit=st.sampled_from(["pad", "crop"]),
        fill=st.integers(0, 255),
        resample=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
    ),
    st.integers(1, 5_000),
    st.integers(1, 8),
)
def test_pieces_give_the_pixels_of_the_whole(mode, width, height, options, piece_pixels, orientation):
    values = np.random.default_rng(width * height).integers(0, 256, (height, width, 4), dtype=np.uint8)
    image = Image.fromarray(values)
    exif = Image.Exif()
    exif[0x0112] = orientation
    extra = {"transparency": bytes(range(0, 250, 5))} if mode == "P" else {}
    if mode == "I;16":
        image = Image.fromarray(values[:, :, 0].astype(np.uint16) * 200)
    elif mode == "P":
        image = image.convert("RGB").quantize(50)
    else:
        image = image.convert(mode)
    file = BytesIO()
    image.save(file, "TIFF" if mode == "CMYK" else "PNG", exif=exif, **extra)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transform, "PIECE_PIXELS", piece_pixels)
        result = options.decode(file.getvalue())
    expected = np.asarray(at_once(options, file.getvalue()))
    top, left = ((options.size_px - length) // 2 for length in expected.shape[:2])
    part = result[top : top + expected.shape[0], left : left + expected.shape[1]]
    shown = expected if expected.ndim == 3 else expected[:, :, np.newaxis]
    np.testing.assert_array_equal(part, np.broadcast_to(shown, part.shape))


@pytest.mark.parametrize(
    ("piece_pixels", "size_px", "fit", "size", "number", "piece"),
    [
        (None, 64, "pad", (4096, 2048), 8, (4096, 256)),  # blocks of 32 × 32
        (None, 64, "crop", (8192, 4096), 16, (4096, 256)),
        (None, 64, "pad", (2**20, 8), 4 * 2, (2**18, 4)),  # blocks of 8192 × 4
        (None, 64, "pad", (8, 2**20), 8, (8, 2**17)),
        (1, 8, "pad", (64, 32), 16 * 8, (4, 4)),  # one block at least
    ],
)
def test_about_a_million_pixels_are_converted_at_a_time(monkeypatch, piece_pixels, size_px, fit, size, number, piece):
    pieces, reduce = [], Image.Image.reduce

    def note_and_reduce(image, factors):
        pieces.append((image.mode, image.size))
        return reduce(image, factors)

    monkeypatch.setattr(Image.Image, "reduce", note_and_reduce)
    if piece_pixels is not None:
        monkeypatch.setattr(transform, "PIECE_PIXELS", piece_pixels)
    Transform(size_px=size_px, mode="rgb", fit=fit).apply_to_image(Image.new("1", size))
    assert pieces == [("L", piece)] * number


@pytest.mark.parametrize("resample", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(31, 5), (5, 31), (31, 31), (32, 5), (5, 32)])
def test_a_side_that_needs_no_blocks_does_not_keep_the_other_from_them(resample, size):
    """31 / 8 is less than 4 and 5 / 1 is more: blocks of 1 × 2."""
    pixels = np.random.default_rng(0).integers(0, 256, size[::-1], dtype=np.uint8)
    result = Transform(size_px=8, mode="gray", resample=resample).apply(pixels)[:, :, 0]
    inner = tuple(8 if length > 8 else 1 for length in size)
    expected = np.asarray(Image.fromarray(pixels).resize(inner, Image.Resampling[resample.upper()], reducing_gap=2.0))
    top, left = ((8 - length) // 2 for length in expected.shape)
    np.testing.assert_array_equal(result[top : top + expected.shape[0], left : left + expected.shape[1]], expected)


def test_nearest_converts_no_more_pixels_than_it_keeps(monkeypatch):
    sizes, convert = [], Image.Image.convert

    def note_and_convert(image, *arguments):
        sizes.append(image.size)
        return convert(image, *arguments)

    monkeypatch.setattr(Image.Image, "convert", note_and_convert)
    Transform(size_px=8, mode="gray", resample="nearest").apply_to_image(Image.new("CMYK", (800, 400)))
    assert set(sizes) == {(8, 4)}


def test_a_pixel_out_of_range_is_refused_even_where_nearest_leaves_it_out():
    pixels = np.zeros((80, 80), np.int32)
    pixels[0, 0] = 65_536
    with pytest.raises(ImageError, match="32-bit pixels have no fixed range"):
        Transform(size_px=8, mode="gray", resample="nearest").apply_to_image(Image.fromarray(pixels))
