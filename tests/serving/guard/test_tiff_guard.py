"""`GAPGATE_FORMATS=+tiff`: plain TIFF files are answered, every other kind is refused by name."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gapgate.data.formats import FORMATS
from gapgate.errors import ImageError, ImageFault
from serving.guard.image_guard import check
from tests.serving.guard.test_image_guard import GRAY, STRIP, TILE, answer, tiff

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))


def saved(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("order", "<>")
def test_a_plain_file_is_answered_in_either_byte_order(order: str) -> None:
    assert answer(tiff(GRAY | STRIP, order)).shape == (28, 28, 3)


REFUSED = {
    "compression 3": tiff(GRAY | STRIP | {259: (3, 1, 3)}),
    "compression 7": saved(IMAGE.convert("L"), compression="jpeg"),
    "compression 32773": saved(IMAGE, compression="packbits"),
    "photometric interpretation 5": saved(IMAGE.convert("CMYK")),
    "1 bits a sample": saved(IMAGE.convert("1"), compression="group3"),
    "12 bits a sample": tiff(GRAY | STRIP | {258: (3, 1, 12)}),
    "32 bits a sample": saved(IMAGE.convert("L").convert("I")),
    "several pages": saved(IMAGE, save_all=True, append_images=[IMAGE]),
    "tiles": tiff(GRAY | TILE | {322: (4, 1, 64), 323: (4, 1, 64)}),
    "planar configuration 2": tiff(GRAY | STRIP | {284: (3, 1, 2)}),
    "predictor 3": tiff(GRAY | STRIP | {317: (3, 1, 3)}),
    "sample format 3 (floating-point or signed)": tiff(GRAY | STRIP | {258: (3, 1, 16), 339: (3, 1, 3)}),
    "5 samples a pixel": tiff(GRAY | STRIP | {277: (3, 1, 5)}),
    "64-bit offsets (BigTIFF)": saved(IMAGE, big_tiff=True),
}


@pytest.mark.parametrize("what", REFUSED)
def test_another_kind_is_refused_by_name(what: str) -> None:
    with pytest.raises(ImageError) as error:
        check(REFUSED[what], FORMATS)
    assert error.value.kind is ImageFault.UNSUPPORTED
    assert error.value.reason == f"a TIFF file with {what}, which the server does not take"
    assert "save it as PNG, or as TIFF of one page" in str(error.value)


def test_a_big_endian_bigtiff_is_named_though_pillow_knows_none() -> None:
    with pytest.raises(ImageError, match="BigTIFF"):
        check(tiff(GRAY | STRIP, ">", big=True), FORMATS)


def test_tiff_is_refused_where_it_is_not_asked_for_and_the_message_says_how() -> None:
    with pytest.raises(ImageError) as error:
        check(saved(IMAGE))
    assert str(error.value) == (
        "a TIFF file, which this server does not take; save it as PNG or JPEG, "
        "or set GAPGATE_FORMATS=+tiff for the server"
    )


def test_files_of_the_user_are_taken_in_every_kind() -> None:
    for data in REFUSED.values():
        check(data, None)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "group3"])
def test_libtiff_writes_nothing_of_damaged_files(compression: str) -> None:
    image = Image.effect_noise((300, 3_000), 90)
    data = bytearray(saved(image.convert("1") if compression == "group3" else image, compression=compression))
    for place in range(200, len(data) - 400, 7):
        data[place] ^= 0x5A
    program = (
        "import sys\n"
        "from gapgate.data.picture.opening import open_image\n"
        "from gapgate.errors import ImageError\n"
        "try:\n    open_image(sys.stdin.buffer.read(), max_pixels=10**7)\n"
        "except ImageError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], input=bytes(data), capture_output=True, check=True)
    assert done.stderr == b""
