"""The image zoo: each kind of file decodes to pixels that were computed without it, and alike in training and service.

The table of `docs/pictures.md` has a line for each kind.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gapgate.data.formats import FORMATS, format_of
from gapgate.data.picture.colour import DISPLAY_P3, conversion, matrix_profile
from gapgate.data.picture.opening import has_heic, load_image, open_image, read_header
from gapgate.data.transform import Transform
from gapgate.errors import ImageError, ImageFault
from serving.guard.image_guard import check

RGB = np.stack([np.linspace(20, 230, 64), np.linspace(200, 40, 64), np.linspace(90, 160, 64)], 1).reshape(8, 8, 3)
RGB = RGB.round().astype(np.uint8)
GRAY = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)
CLEAR = np.zeros((8, 8), bool)
CLEAR[:, :4] = True
DEEP = (GRAY.astype(np.uint16) * 257)[..., None][..., 0]

SRGB = np.array([[0.43607, 0.22249, 0.01392], [0.38515, 0.71687, 0.09708], [0.14307, 0.06061, 0.71410]])
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
PROPHOTO = ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491))


def srgb(pixels, primaries, gamma):
    """The colours of a profile in sRGB (IEC 61966-2-1), by hand."""
    linear = (pixels / 255) ** gamma @ np.array(primaries) @ np.linalg.inv(SRGB)
    linear = linear.clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (255 * encoded).round()


def saved(pixels, form, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(colour, depth, rows, transparent=b""):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width = 8, 8
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
            chunk(b"tRNS", transparent) if transparent else b"",
            chunk(b"IDAT", zlib.compress(pixels)),
            chunk(b"IEND", b""),
        )
    )


def tiff(values, bits, photometric=1, **more):
    """A gray TIFF file without compression, by hand: Pillow does not write these."""
    data = values.tobytes()
    tags = {256: 8, 257: 8, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 8, 279: len(data)}
    tags |= {int(tag[1:]): value for tag, value in more.items()}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def twelve_bits(values):
    """12-bit numbers, two in three bytes."""
    bits = "".join(f"{value:012b}" for value in values.ravel())
    return np.array([int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)], np.uint8)


def with_alpha(pixels):
    return np.dstack([pixels, np.where(CLEAR, 0, 255).astype(np.uint8)])


def on_black(pixels):
    return np.where(CLEAR[..., None] if pixels.ndim == 3 else CLEAR, 0, pixels)


TWELVE = np.linspace(0, 4_095, 64).round().astype(np.uint16).reshape(8, 8)
PALETTE = Image.fromarray(RGB).quantize(64)
LUMA = (GRAY.astype(int) * 4_095 + 127) // 255
EXIF = Image.Exif()
EXIF[0x0112] = 6

ZOO = {
    "PNG, 8 bits": (saved(RGB, "PNG"), RGB, 0),
    "PNG, gray": (saved(GRAY, "PNG"), GRAY, 0),
    "PNG, palette": (saved(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB")), 0),
    "PNG, alpha": (saved(with_alpha(RGB), "PNG"), on_black(RGB), 0),
    "PNG, gray with alpha": (saved(with_alpha(GRAY), "PNG"), on_black(GRAY), 0),
    "PNG, 16-bit gray": (saved(DEEP, "PNG"), GRAY, 0),
    "PNG, 16-bit gray with a transparent value": (
        png(0, 16, np.where(CLEAR, 0x1234, DEEP).astype(">u2"), struct.pack(">H", 0x1234)),
        on_black(GRAY),
        0,
    ),
    # The lower byte is another one than the upper, so that it is seen which is read.
    "PNG, 16-bit colour": (png(2, 16, (RGB.astype(np.uint16) << 8 | 0x5A).astype(">u2")), RGB, 0),
    "PNG, 16-bit colour with a transparent colour": (
        png(
            2,
            16,
            np.where(CLEAR[..., None], 0x1234, RGB.astype(np.uint16) * 257).astype(">u2"),
            struct.pack(">3H", 0x1234, 0x1234, 0x1234),
        ),
        on_black(RGB),
        0,
    ),
    "JPEG": (saved(RGB, "JPEG", quality=100, subsampling=0), RGB, 2),
    "JPEG, CMYK": (saved(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=100, subsampling=0), RGB, 2),
    "JPEG, turned by EXIF": (
        saved(np.rot90(RGB).copy(), "JPEG", quality=100, subsampling=0, exif=EXIF),
        RGB,
        2,
    ),
    "WebP": (saved(RGB, "WEBP", lossless=True), RGB, 0),
    "GIF": (saved(PALETTE, "GIF"), np.asarray(PALETTE.convert("RGB")), 0),
    "BMP": (saved(RGB, "BMP"), RGB, 0),
    "PPM": (saved(RGB, "PPM"), RGB, 0),
    "PGM, 16 bits": (b"P5 8 8 65535\n" + DEEP.astype(">u2").tobytes(), GRAY, 0),
    "AVIF": (saved(RGB, "AVIF", quality=100, subsampling="4:4:4"), RGB, 3),
    "TIFF": (saved(RGB, "TIFF"), RGB, 0),
    "TIFF, LZW": (saved(RGB, "TIFF", compression="tiff_lzw"), RGB, 0),
    "TIFF, deflate": (saved(RGB, "TIFF", compression="tiff_adobe_deflate"), RGB, 0),
    "TIFF, 16 bits, white is zero": (tiff(65_535 - DEEP, 16, photometric=0), GRAY, 0),
    "TIFF, 16 bits with MaxSampleValue 4,095": (tiff(TWELVE, 16, t281=4_095), GRAY, 1),
    "TIFF, 12 bits": (tiff(twelve_bits(TWELVE), 12), GRAY, 1),
    "TIFF, 32 bits with a largest value": (tiff(TWELVE.astype(np.uint32) * 100, 32, t341=409_500), GRAY, 1),
    "Display P3": (
        saved(RGB, "PNG", icc_profile=matrix_profile(DISPLAY_P3, 2.2)),
        srgb(RGB, DISPLAY_P3, 2.19921875),
        2,
    ),
    "Adobe RGB": (
        saved(RGB, "PNG", icc_profile=matrix_profile(ADOBE_RGB, 2.19921875)),
        srgb(RGB, ADOBE_RGB, 2.19921875),
        2,
    ),
    "ProPhoto": (saved(RGB, "PNG", icc_profile=matrix_profile(PROPHOTO, 1.8)), srgb(RGB, PROPHOTO, 1.80078125), 2),
    "Display P3 with alpha": (
        saved(with_alpha(RGB), "PNG", icc_profile=matrix_profile(DISPLAY_P3, 2.2)),
        on_black(srgb(RGB, DISPLAY_P3, 2.19921875)),
        2,
    ),
    "a profile for another kind of pixels": (saved(GRAY, "PNG", icc_profile=matrix_profile(PROPHOTO, 1.8)), GRAY, 0),
    "a damaged profile": (saved(RGB, "PNG", icc_profile=matrix_profile(PROPHOTO, 1.8)[:140]), RGB, 0),
}
UNSERVED = {"AVIF", "TIFF", "HEIC"}
UNGUARDED = {"TIFF, 12 bits", "TIFF, 32 bits with a largest value"}
"""Kinds that only training takes."""


@pytest.fixture(params=["gray", "rgb"])
def mode(request):
    return request.param


@pytest.mark.parametrize("kind", ZOO)
def test_a_file_decodes_to_its_reference_alike_in_training_and_service(kind, mode):
    data, expected, tolerance = ZOO[kind]
    transform = Transform(size_px=8, mode=mode)
    served = transform.apply_to_image(load_image(read_header(data, max_pixels=64)))
    trained = transform.apply_to_image(open_image(data, max_pixels=64))
    np.testing.assert_array_equal(served, trained)
    if mode == "rgb":
        expected = expected if expected.ndim == 3 else expected[..., None]
        np.testing.assert_allclose(served, np.broadcast_to(expected, served.shape), atol=tolerance)
    elif expected.ndim == 2:
        np.testing.assert_allclose(served[..., 0], expected, atol=tolerance)
    else:
        luma = expected @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
        np.testing.assert_allclose(served[..., 0], luma, atol=tolerance + 1)


@pytest.mark.parametrize("kind", ZOO)
def test_the_guard_takes_a_kind_where_its_format_is_asked_for(kind):
    data, *_ = ZOO[kind]
    if kind in UNGUARDED:
        with pytest.raises(ImageError) as error:
            check(data, FORMATS)
        assert error.value.kind is ImageFault.UNSUPPORTED
    else:
        check(data, FORMATS)
    if format_of(data).name in UNSERVED:
        with pytest.raises(ImageError, match=r"or set GAPGATE_FORMATS=\+"):
            check(data)


def test_a_heic_file_gives_the_pixels_that_pillow_heif_gives():
    if not has_heic():
        pytest.skip("pillow-heif (gapgate[heic]) is not installed")
    big = np.kron(RGB, np.ones((8, 8, 1), np.uint8))
    data = saved(big, "HEIF", quality=-1, chroma=444)
    pixels = Transform(size_px=64, mode="rgb").decode(data)
    np.testing.assert_allclose(pixels, big, atol=4)


def test_heic_without_its_library_says_what_to_install(monkeypatch):
    from gapgate.data.picture import opening

    monkeypatch.setattr(opening, "has_heic", lambda: False)
    with pytest.raises(ImageError, match=r"pillow-heif is not installed; install pillow-heif, or save it as JPEG"):
        read_header(b"\0\0\0\x20ftypheic" + bytes(100), max_pixels=10)


def test_an_srgb_profile_of_any_name_changes_nothing():
    image = Image.fromarray(RGB)
    image.info["icc_profile"] = matrix_profile(tuple(map(tuple, SRGB)), 1.0)
    assert conversion(image) is not None  # the primaries of sRGB, but not its curve
    from PIL import ImageCms

    image.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert conversion(image) is None


def test_a_large_photo_with_a_profile_is_converted_after_it_is_resized(monkeypatch):
    from gapgate.data import transform

    sizes, convert = [], transform.to_srgb
    monkeypatch.setattr(transform, "to_srgb", lambda image: (sizes.append(image.size), convert(image))[1])
    pixels = np.kron(RGB, np.ones((60, 60, 1), np.uint8))
    data = saved(pixels, "PNG", icc_profile=matrix_profile(DISPLAY_P3, 2.2))
    result = Transform(size_px=8, mode="rgb").decode(data)
    assert sizes == [(8, 8)]
    plain = Transform(size_px=8, mode="rgb").decode(saved(pixels, "PNG"))
    np.testing.assert_allclose(result, srgb(plain, DISPLAY_P3, 2.19921875), atol=2)


@pytest.mark.parametrize("kind", ["Display P3", "TIFF, 16 bits, white is zero", "TIFF, 12 bits"])
def test_a_package_of_before_keeps_its_pixels(kind, tmp_path):
    (tmp_path / "transform.json").write_text('{"size_px": 8, "mode": "rgb"}')
    old = Transform.from_file(tmp_path / "transform.json")
    assert old.version == 1
    data, *_ = ZOO[kind]
    with Image.open(io.BytesIO(data)) as image:
        values = np.asarray(image)
    stored = values if values.dtype == np.uint8 else np.rint(values / 257)
    np.testing.assert_array_equal(old.decode(data)[..., 0], stored if stored.ndim == 2 else stored[..., 0])
    assert (old.decode(data) != Transform(size_px=8, mode="rgb").decode(data)).any()


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_range_are_refused_by_name(mode):
    with pytest.raises(ImageError, match="fixed range") as error:
        open_image(saved(Image.new(mode, (8, 8), 1), "TIFF"), max_pixels=64)
    assert error.value.kind is ImageFault.NO_FIXED_RANGE


def test_the_table_in_the_documentation_has_every_kind():
    text = (Path(__file__).parents[4] / "docs" / "pictures.md").read_text()
    lines = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")}
    assert set(ZOO) | {"HEIC"} <= lines
