"""`serving.guard.image_guard`: small files that would hold a worker are refused, what encoders write is not."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin, features

from gapgate.data.formats import FORMATS
from gapgate.data.transform import Transform
from gapgate.errors import ImageError
from serving.guard.image_guard import Limits, check
from serving.http import inputs
from serving.model.predictor import Predictor
from tests.processor_time import processor_s
from tests.serving.packaged import picture

BODY_BYTES = 10_000_000
"""The largest upload."""
TRANSFORM = Transform(size_px=28, mode="rgb")
PREDICTOR = cast(
    Predictor,
    SimpleNamespace(
        open=lambda data, max_pixels: Predictor.open(
            cast(Predictor, SimpleNamespace(transform=TRANSFORM)), data, max_pixels
        ),
        pixels=lambda image: Predictor.pixels(cast(Predictor, SimpleNamespace(transform=TRANSFORM)), image),
    ),
)
IMAGE = Image.merge("RGB", [Image.radial_gradient("L").resize((28, 28)).rotate(angle) for angle in (0, 90, 180)])


def answer(data: bytes) -> Any:
    """What the server computes of an upload."""
    return PREDICTOR.pixels(inputs._open(PREDICTOR, inputs.Upload(data), Limits(50_000_000, FORMATS)))


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(*before: bytes, pixels: list[bytes] | None = None, after: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 28, 28, 8, 2, 0, 0, 0))
    parts = [zlib.compress(bytes(85 * 28))] if pixels is None else pixels
    body = b"".join(before) + b"".join(chunk(b"IDAT", part) for part in parts)
    return b"\x89PNG\r\n\x1a\n" + header + body + after + chunk(b"IEND", b"")


def segment(marker: int, body: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg(before: bytes) -> bytes:
    data = saved(IMAGE, "JPEG")
    return data[:2] + before + data[2:]


def scans(side_px: int, number: int) -> bytes:
    data = saved(Image.new("L", (side_px, side_px)), "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * number + b"\xff\xd9"


def exif(num_tags: int, kind: int = 3, count: int = 1) -> bytes:
    tags = b"".join(struct.pack("<HHII", 1 + index % 65_535, kind, count, 8) for index in range(num_tags))
    return b"II*\0" + struct.pack("<IH", 8, num_tags & 0xFFFF) + tags + bytes(4)


def gif(blocks: bytes) -> bytes:
    return b"GIF89a\x1c\0\x1c\0\0\0\0" + blocks + b",\0\0\0\0\x1c\0\x1c\0\0\x02\x03\0\0\0\0;"


def webp(*chunks: bytes) -> bytes:
    size = struct.pack("<I", 27)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x08\0\0\0" + size * 2 + saved(IMAGE, "WEBP")[12:] + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp(width: int, height: int, codes: bytes, compression: int = 1) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, len(codes), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 1_078) + header + bytes(range(256)) * 4 + codes


Tags = dict[int, tuple[int, int, int | bytes]]
PIXELS = zlib.compress(bytes(28 * 28))
GRAY: Tags = {256: (4, 1, 28), 257: (4, 1, 28), 258: (3, 1, 8), 259: (3, 1, 8), 262: (3, 1, 1), 277: (3, 1, 1)}
STRIP: Tags = {273: (4, 1, 8), 278: (4, 1, 28), 279: (4, 1, len(PIXELS))}
TILE: Tags = {324: (4, 1, 8), 325: (4, 1, len(PIXELS))}


def tiff(tags: Tags, order: str = "<", big: bool = False, repeat: int = 1) -> bytes:
    """Pixels at byte 8 (16), then the directory, then its values."""
    start = (16 if big else 8) + len(PIXELS)
    entries, values = b"", b""
    place = start + (16 + 20 * len(tags) if big else 6 + 12 * len(tags) * repeat)
    for tag, (kind, count, value) in sorted(tags.items()):
        is_inline = not isinstance(value, bytes)
        if isinstance(value, bytes):
            values, value = values + value, place + len(values)
        entry = struct.pack(f"{order}HH{'Q' if big else 'I'}", tag, kind, count)
        size = 8 if big else 4
        layout = {3: "H", 4: "I"}.get(kind, "I") if is_inline else "Q" if big else "I"
        entries += entry + struct.pack(order + layout, value).ljust(size, b"\0")
    mark = b"II" if order == "<" else b"MM"
    if big:
        head = mark + struct.pack(f"{order}HHHQ", 43, 8, 0, start)
        return head + PIXELS + struct.pack(f"{order}Q", len(tags)) + entries + bytes(8) + values
    head = mark + struct.pack(f"{order}HI", 42, start)
    return head + PIXELS + struct.pack(f"{order}H", len(tags) * repeat) + entries * repeat + bytes(4) + values


def listed(number: int, value: int) -> tuple[int, int, bytes]:
    return 4, number, struct.pack("<I", value) * number


def exif_directory(kind: int, count: int) -> bytes:
    """A TIFF file with an EXIF directory of one tag."""
    inner = struct.pack("<HHHII", 1, 0x9999, kind, count, 8) + bytes(4)
    return tiff(GRAY | STRIP | {0x8769: (4, 1, 0), 305: (2, len(inner), inner)}).replace(
        struct.pack("<HHII", 0x8769, 4, 1, 0),
        struct.pack("<HHII", 0x8769, 4, 1, len(tiff(GRAY | STRIP | {0x8769: (4, 1, 0), 305: (2, 0, b"")}))),
    )


MEGABYTE = zlib.compress(b"\xff" * 10**6, 9)
ATTACKS: dict[str, Callable[[], bytes]] = {
    "JPEG, fill bytes": lambda: jpeg(b"\xff" * 9_000_000),
    "JPEG, zeros between segments": lambda: jpeg(segment(0xFE) + bytes(9_000_000)),
    "JPEG, restart markers": lambda: jpeg(b"\xff\xd0" * 4_000_000),
    "JPEG, 500,000 empty APP1": lambda: jpeg(segment(0xE1) * 500_000),
    "JPEG, empty comments": lambda: jpeg(segment(0xFE) * 2_000_000),
    "JPEG, EXIF in small pieces": lambda: jpeg(segment(0xE1, b"Exif\0\0abcd") * 700_000),
    "JPEG, 9 MB of EXIF": lambda: jpeg(segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 140),
    "JPEG, profile in small pieces": lambda: jpeg(segment(0xE2, b"ICC_PROFILE\0\1\1") * 500_000),
    "JPEG, Photoshop's blocks": lambda: jpeg(
        segment(0xED, b"Photoshop 3.0\0" + (b"8BIM\4\4" + bytes(6)) * 5_400) * 140
    ),
    "JPEG, quantization tables": lambda: jpeg(segment(0xDB, (b"\0" + b"\1" * 64) * 1_000) * 140),
    "JPEG, frame headers": lambda: jpeg(segment(0xC0, b"\x08\0\x1c\0\x1c\3" + b"\1\x11\0" * 21_000) * 140),
    "JPEG, EXIF of 5,400 tags": lambda: jpeg(segment(0xE1, b"Exif\0\0" + exif(5_400))),
    "JPEG, 4,000 scans": lambda: scans(1_024, 4_000),
    "JPEG, 90 scans of 49 MP": lambda: scans(7_000, 90),
    "JPEG, scans behind a false end": lambda: (
        scans(64, 1).replace(b"\xff\xda", segment(0xFE, b"\xff\xd9") + b"\xff\xda")[:-2] + scans(64, 4_000)[200:]
    ),
    "PNG, unknown chunks": lambda: png(chunk(b"abCd", b"") * 800_000),
    "PNG, unknown chunks at the end": lambda: png(after=chunk(b"abCd", b"") * 800_000),
    "PNG, empty IDAT": lambda: png(pixels=[b""] * 800_000),
    "PNG, zTXt without a key": lambda: png(chunk(b"zTXt", b"\0\0" + MEGABYTE) * 8_000),
    "PNG, iTXt that is not UTF-8": lambda: png(chunk(b"iTXt", b"k\0\1\0\0\0" + MEGABYTE) * 60),
    "PNG, iTXt with another flag": lambda: png(chunk(b"iTXt", b"k\0\2\0\0\0" + MEGABYTE) * 60),
    "PNG, profiles": lambda: png(chunk(b"iCCP", b"k\0\0" + MEGABYTE) * 60),
    "PNG, EXIF of 65,535 tags": lambda: png(chunk(b"eXIf", exif(65_535))),
    "PNG, EXIF with 65,535 warnings": lambda: png(chunk(b"eXIf", exif(65_535, 4, 2**30))),
    "GIF, comments": lambda: gif(b"!\xfe\1a\0" * 1_800_000),
    "GIF, one comment": lambda: gif(b"!\xfe" + b"\1a" * 4_500_000 + b"\0"),
    "GIF, empty extensions": lambda: gif(b"!\xf9\0" * 3_000_000),
    "GIF, NETSCAPE without its block": lambda: gif(b"!\xff\x0bNETSCAPE2.0\0\1," + b"\1a" * 4_500_000),
    "GIF, zeros": lambda: gif(bytes(9_000_000)),
    "WebP, unknown chunks": lambda: webp(b"abcd\0\0\0\0" * 1_000_000),
    "WebP, EXIF of 65,535 tags": lambda: webp(b"EXIF" + struct.pack("<I", len(exif(65_535))) + exif(65_535)),
    "BMP, ends of lines": lambda: bmp(7_000, 7_000, b"\1\1\0\0" * 7_000),
    "BMP, upside down": lambda: bmp(7_000, -7_000, b"\1\1\0\0" * 7_000),
    "BMP, codes that do nothing": lambda: bmp(28, 28, b"\0\0" * 4_500_000),
    "TIFF, tile of 40,000 x 40,000": lambda: tiff(GRAY | TILE | {322: (4, 1, 40_000), 323: (4, 1, 40_000)}),
    "TIFF, the same, big-endian": lambda: tiff(GRAY | TILE | {322: (4, 1, 40_000), 323: (4, 1, 40_000)}, ">"),
    "TIFF, the same, BigTIFF": lambda: tiff(GRAY | TILE | {322: (4, 1, 40_000), 323: (4, 1, 40_000)}, big=True),
    "TIFF, tile without a width": lambda: tiff(GRAY | TILE | {323: (4, 1, 2**31)}),
    "TIFF, tiles of one pixel": lambda: tiff(
        GRAY | TILE | {256: (4, 1, 7_000), 257: (4, 1, 7_000), 322: (4, 1, 1), 323: (4, 1, 1)}
    ),
    "TIFF, strips of one pixel": lambda: tiff(
        GRAY | {256: (4, 1, 1), 257: (4, 1, 1_000_000), 273: listed(10**6, 8), 278: (4, 1, 1), 279: listed(10**6, 1)}
    ),
    "TIFF, fax of 24 million rows": lambda: tiff(
        GRAY
        | STRIP
        | {256: (4, 1, 1), 257: (4, 1, 24_000_000), 258: (3, 1, 1), 259: (3, 1, 3), 278: (4, 1, 24_000_000)}
    ),
    "TIFF, 49 MP of 32 bytes a pixel": lambda: tiff(
        GRAY | STRIP | {256: (4, 1, 7_000), 257: (4, 1, 7_000), 258: (3, 1, 64), 277: (3, 1, 4), 278: (4, 1, 7_000)}
    ),
    "TIFF, a million bit depths": lambda: tiff(GRAY | STRIP | {258: (3, 10**6, b"\x08\0" * 10**6)}),
    "TIFF, a million fractions": lambda: tiff(GRAY | STRIP | {282: (5, 10**6, b"\1\0\0\0" * 2 * 10**6)}),
    "TIFF, 30,000 tags": lambda: tiff(GRAY | STRIP, repeat=3_000),
    "TIFF, tags twice": lambda: tiff(GRAY | STRIP, repeat=2),
    "TIFF, EXIF of a million fractions": lambda: exif_directory(5, 10**6),
}


@pytest.fixture(scope="module")
def honest_s() -> float:
    """Processor time of a photograph of 16 megapixels."""
    photograph = picture(4_000, 4_000, "JPEG")
    return processor_s(lambda: answer(photograph))


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_costs_less_than_a_photograph_and_no_memory(name: str, honest_s: float) -> None:
    data = ATTACKS[name]()
    assert len(data) <= BODY_BYTES

    def refuse() -> None:
        with pytest.raises(ImageError):
            answer(data)

    assert processor_s(refuse) < honest_s  # 5 ms of 80; a second and more without the guard
    tracemalloc.start()
    with pytest.raises(ImageError) as error:
        answer(data)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2_000_000
    with pytest.raises(ImageError) as guarded:
        check(data, FORMATS)
    assert str(error.value) == str(guarded.value)
    assert "\n" not in str(guarded.value)


def test_the_guard_costs_less_than_half_of_what_a_small_file_costs() -> None:
    for format in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"):
        data = saved(IMAGE, format)
        guard_s = min(processor_s(lambda data=data: check(data, FORMATS)) for _ in range(200))  # type: ignore[misc]
        whole_s = min(processor_s(lambda data=data: answer(data)) for _ in range(200))  # type: ignore[misc]
        assert guard_s < whole_s / 2, format  # an eighth for JPEG and TIFF, a fortieth for the others


def written() -> Iterator[tuple[str, bytes]]:
    """What Pillow can write, in many options."""
    tags = Image.Exif()
    tags[0x0112], tags[0x010F] = 6, "maker" * 50
    tags.get_ifd(0x8769)[0x829A] = (1, 60)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    large = Image.merge("RGB", [Image.effect_noise((280, 190), 90) for _ in range(3)])
    texts = PngImagePlugin.PngInfo()
    for index in range(60):
        texts.add_itxt(f"key {index}", "text")
    for index in range(20):
        texts.add_text(f"z {index}", "text" * 100, zip=True)
    for image in (IMAGE, large):
        frames: dict[str, Any] = {"save_all": True, "append_images": [image.rotate(index) for index in range(5)]}
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
            yield (
                f"PNG {mode}",
                saved(image.convert("L").convert("I").convert(mode) if mode == "I;16" else image.convert(mode), "PNG"),
            )
        for options in ({"optimize": True}, {"exif": tags}, {"icc_profile": profile}, {"pnginfo": texts}, frames):
            yield f"PNG {[*options]}", saved(image, "PNG", **options)
        for mode in ("L", "RGB", "CMYK"):
            for options in ({"progressive": True}, {"optimize": True}, {"exif": tags}, {"icc_profile": profile * 300}):
                yield f"JPEG {mode} {[*options]}", saved(image.convert(mode), "JPEG", quality=98, **options)
        yield "JPEG restarts", saved(image, "JPEG", restart_marker_blocks=1, comment=b"c" * 60_000, xmp=b"x" * 60_000)
        for options in ({"lossless": True}, {"exif": tags}, {"icc_profile": profile}, {"xmp": b"x" * 10**5}, frames):
            yield f"WEBP {[*options]}", saved(image, "WEBP", method=0, **options)
        for mode in ("1", "L", "P", "RGB"):
            yield f"GIF {mode}", saved(image.convert(mode), "GIF", comment=b"c" * 50_000)
            yield f"BMP {mode}", saved(image.convert(mode), "BMP")
        yield "GIF frames", saved(image.convert("P"), "GIF", loop=0, duration=40, transparency=3, **frames)
        for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate"):
            for mode in ("L", "LA", "P", "RGB", "RGBA", "I;16"):
                for options in ({}, {"tiffinfo": {278: 1}}, {"exif": tags, "icc_profile": profile}):
                    whole = image.convert("L").convert("I") if mode == "I;16" else image
                    yield (
                        f"TIFF {compression} {mode} {[*options]}",
                        saved(whole.convert(mode), "TIFF", compression=compression, **options),
                    )


def test_what_pillow_writes_is_never_refused() -> None:
    assert features.check("libtiff")
    number = 0
    for name, data in written():
        try:
            check(data, FORMATS)
        except ImageError as error:
            pytest.fail(f"{name}: {error}")
        number += 1
    assert number > 200


def test_real_photos_are_answered() -> None:
    sklearn = pytest.importorskip("sklearn.datasets")
    for path in Path(sklearn.__file__).parent.glob("images/*.jpg"):
        assert answer(path.read_bytes()).shape == (28, 28, 3)


def test_a_large_png_in_small_chunks_is_answered() -> None:
    packed = zlib.compress(bytes(85 * 28), 0)
    assert answer(png(pixels=[packed[index : index + 1] for index in range(len(packed))])).shape == (28, 28, 3)
    check(png(pixels=[bytes(8_192)] * 1_200))


def test_a_video_behind_a_photo_counts_no_scans() -> None:
    video = random.Random(3).randbytes(100) + b"\xff\xda" * 5_000
    assert answer(saved(IMAGE, "JPEG", progressive=True) + video).shape == (28, 28, 3)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]), st.data())
def test_damage_raises_nothing_but_image_error(format: str, data: st.DataObject) -> None:
    file = bytearray(saved(IMAGE, format))
    for _ in range(data.draw(st.integers(0, 4))):
        file[data.draw(st.integers(0, min(len(file), 400) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ImageError):
        check(bytes(file[: data.draw(st.integers(0, len(file)))]), FORMATS)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(
        [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"P5", b"P3"]
    ),
    st.binary(max_size=300),
)
def test_any_bytes_raise_nothing_but_image_error(signature: bytes, rest: bytes) -> None:
    with suppress(ImageError):
        check(signature + rest, FORMATS)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "I;16"])
def test_ppm_files_of_every_kind_pass(mode: str) -> None:
    check(saved(Image.new(mode, (3000, 2000)), "PPM"))
    check(b"P3 # in digits\n2 # wide\n1\n255\n" + b"1 2 3 4 5 6\n")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"P6" + b" " * 10_000_000, "not an image in one of the formats"),
        (b"P5#" + b"x" * 10_000_000, "not an image in one of the formats"),
        (b"P5 1 1 #" + b"x" * 10_000_000, "its header has no end within 1,024 bytes"),
        (b"P3 512 512 255\n" + b"1 " * 786_432, "262,144 pixels are too many for this kind of PPM"),
        (b"P6 1024 1024 100\n" + bytes(3 * 2**20), "1,048,576 pixels are too many for this kind of PPM"),
        (b"P2 9 9 255\n" + b"#\n" * 1_000_000, "more than 100 comments"),
    ],
)
def test_a_ppm_file_that_pillow_would_read_slowly_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        check(data)


def test_other_formats_are_refused() -> None:
    for data in (b"", b"P0CMYK 1 1 255 abc", b"PyP 1 1 255 a", b"%PDF-1.7"):
        with pytest.raises(ImageError, match="not an image in one of the formats"):
            check(data)


def test_a_file_cannot_write_to_the_log() -> None:
    data = png(chunk(b"acTL", bytes(8)), chunk(b"eXIf", exif(900, 4, 2**30)))
    program = (
        "import sys, warnings\nfrom serving.http import inputs\n"
        "from gapgate.data.picture.opening import load_image, read_header\n"
        "load_image(read_header(sys.stdin.buffer.read(), max_pixels=10**6))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, check=True)
    assert done.stderr == b""


def test_orientation_costs_less_than_a_photograph_where_exif_is_large(honest_s: float) -> None:
    number = 1_000_000
    tags = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x9999, 5, number, 38)
    body = b"II*\0" + struct.pack("<IH", 8, 2) + tags + bytes(4) + b"\1\0\0\0\3\0\0\0" * number
    data = png(chunk(b"eXIf", body))
    assert processor_s(lambda: answer(data)) < honest_s  # 7 ms of 80; 17 s when the EXIF data were written anew
    np.testing.assert_array_equal(answer(data), answer(png()))
