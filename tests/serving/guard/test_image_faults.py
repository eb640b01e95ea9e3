"""Each kind of fault of an image, by a real file, with its remedy wherever it is reported."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import pytest
from PIL import Image

from gapgate.data.formats import FORMATS, listed
from gapgate.data.preprocess import preprocess
from gapgate.errors import IMAGE_REMEDIES, ImageError, ImageFault
from gapgate.settings.sections import PreprocessSettings
from serving.client.prediction import Local, find_images, predict
from serving.guard.image_guard import SERVED, Limits
from serving.http.form import Upload
from serving.http.inputs import decode_all
from serving.model.predictor import Predictor

PNG = {"content-type": "image/png"}
TENSOR = {"content-type": "application/octet-stream"}


def saved(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def png(width: int, height: int, *extra: tuple[bytes, bytes], rows: bytes = b"") -> bytes:
    """A PNG file of one bit a pixel."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    pixels = (b"IDAT", rows or zlib.compress(bytes(height * (1 + -(-width // 8)))))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in (header, *extra, pixels, (b"IEND", b""))
    )


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))


class Case(NamedTuple):
    """A file with a fault, and what to do about it where it is sent and where it is of a data set."""

    kind: ImageFault
    data: bytes | None
    """None: a link to a file that is not there."""
    sent: str
    kept: str = ""
    """Empty: preprocess takes such a file, or reports another fault of it."""


CASES = {
    "gone": Case(
        ImageFault.UNREADABLE,
        None,
        "cannot be read: No such file or directory; check that the file is there and may be read",
        "cannot be read: No such file or directory; check that the file is there and may be read",
    ),
    "empty": Case(
        ImageFault.EMPTY,
        b"",
        "the image is empty, 0 bytes; send the whole file",
        "the file is empty; copy the whole file again",
    ),
    "other": Case(
        ImageFault.UNKNOWN_FORMAT,
        b"%PDF-1.7",
        f"not an image in one of the formats {listed(SERVED)}; save it as PNG or JPEG",
        f"not an image in one of the formats {listed(FORMATS)}; save it as PNG or JPEG",
    ),
    "cut": Case(
        ImageFault.TRUNCATED,
        saved(NOISE, "PNG")[:2000],
        "the image is truncated; send the whole file",
        "the image is truncated; copy the whole file again",
    ),
    "broken": Case(
        ImageFault.DAMAGED,
        png(8, 8, rows=b"no stream"),
        "the image is corrupt: broken data stream when reading image file; save it anew",
        "the image is corrupt: broken data stream when reading image file; save it anew",
    ),
    "large": Case(
        ImageFault.TOO_MANY_PIXELS,
        png(8000, 8000),
        "8000 x 8000 pixels exceed the limit of 50,000,000 pixels; send a smaller image",
        "8000 x 8000 pixels exceed the limit of 50,000,000 pixels; make it smaller, or raise preprocess.max_pixels",
    ),
    "bomb": Case(
        ImageFault.TOO_MANY_PIXELS,
        png(20_000, 20_000),
        "more pixels than the limit of 50,000,000 pixels; send a smaller image",
        "more pixels than the limit of 50,000,000 pixels; make it smaller, or raise preprocess.max_pixels",
    ),
    "float": Case(
        ImageFault.NO_FIXED_RANGE,
        saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
        "a TIFF file, which this server does not take; save it as PNG or JPEG, "
        "or set GAPGATE_FORMATS=+tiff for the server",
        "floating-point pixels have no fixed range; save the image with 8 or 16 bits",
    ),
    "twelve": Case(
        ImageFault.UNSUPPORTED,
        # The precision stands behind the marker of the frame and its length.
        saved(NOISE, "JPEG").replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc0\0\x0b\x0c"),
        "this JPEG file cannot be read: cannot handle 12-bit layers; save it as PNG or JPEG with 8 bits",
        "this JPEG file cannot be read: cannot handle 12-bit layers; save it as PNG or JPEG with 8 bits",
    ),
    "eight bytes": Case(
        ImageFault.TRUNCATED,
        b"\x89PNG\r\n\x1a\n",
        "the image is truncated; send the whole file",
        "the image is truncated; copy the whole file again",
    ),
    "chunks": Case(
        ImageFault.TOO_COSTLY,
        png(8, 8, *[(b"teSt", b"")] * 1001),
        "more than 1,000 chunks without pixels; save the image anew",
    ),
}
FILES = [name for name, case in CASES.items() if case.data is not None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files of `CASES`, named so that they are taken for images."""
    made = tmp_path_factory.mktemp("faults")
    for name, case in CASES.items():
        path = made / f"{name}.png"
        if case.data is None:
            path.symlink_to(made / "nowhere")
        else:
            path.write_bytes(case.data)
    return made


def test_each_kind_has_a_remedy_and_a_file_that_causes_it() -> None:
    assert set(IMAGE_REMEDIES) == set(ImageFault)
    assert {case.kind for case in CASES.values()} == set(ImageFault)


@pytest.mark.parametrize("name", FILES)
def test_the_server_says_what_to_do_about_an_image(client: httpx.Client, name: str) -> None:
    case = CASES[name]
    alone = client.post("/v1/predict", content=case.data, headers=PNG)
    assert (alone.status_code, alone.json()["error"]["message"]) == (400, case.sent)
    batch = client.post(
        "/v1/predict/batch", files=[("image", (name, case.data)), ("image", ("b", saved(NOISE, "PNG")))]
    )
    bad, good = batch.json()["results"]
    assert bad["error"]["message"] == case.sent
    assert "class" in good


def test_the_server_says_what_to_do_about_a_tensor(client: httpx.Client) -> None:
    answer = client.post("/v1/predict", content=bytes(3), headers=TENSOR)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].endswith(
        "bytes an image; send them in the order height, width, channel; an image file needs its own content type"
    )


def test_predict_says_what_to_do_about_a_file(unpacked: Path, folder: Path) -> None:
    files = [folder / f"{name}.png" for name in CASES]
    rows = [row for rows in predict(Local(unpacked, top_k=1), files) for row in rows]
    # Training's formats, not the server's.
    expected = {name: case.sent for name, case in CASES.items()}
    expected["other"] = CASES["other"].kept
    expected["float"] = CASES["float"].kept
    assert {Path(row.file).stem: row.error for row in rows} == expected


def test_predict_takes_what_training_takes(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "small.ppm")
    Image.new("1", (7000, 7000)).save(tmp_path / "49-megapixels.png")
    files, _ = find_images([tmp_path])
    assert [row.error for rows in predict(Local(unpacked, top_k=1), files) for row in rows] == ["", ""]
    monkeypatch.setenv("GAPGATE_MAX_PIXELS", "1000")
    (large, small) = [row.error for rows in predict(Local(unpacked, top_k=1), files) for row in rows]
    assert "exceed the limit of 1,000 pixels" in large
    assert small == ""


def test_preprocess_says_what_to_do_about_a_file(tmp_path: Path, folder: Path) -> None:
    rng = np.random.default_rng(1)
    for label in "ab":
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{number}.png")
    for path in folder.iterdir():
        (tmp_path / "data" / "a" / path.name).symlink_to(path)
    (tmp_path / "splits").mkdir()
    splits = preprocess(
        PreprocessSettings(evidence="holdout", size_px=8, num_workers=1), tmp_path / "data", tmp_path / "splits"
    )
    rejects = {Path(entry["name"]).stem: entry["reason"] for entry in splits.info["quarantined"]}
    expected = {name: case.kept for name, case in CASES.items() if case.kept}
    assert rejects == expected


@pytest.mark.parametrize("name", FILES)
def test_an_error_carries_its_kind(unpacked: Path, name: str) -> None:
    upload = Upload(CASES[name].data or b"")
    (found,) = decode_all(Predictor.load(unpacked), [upload], Limits(50_000_000, formats=None), cancelled=lambda: False)
    assert isinstance(found, ImageError)
    assert found.kind == CASES[name].kind


@pytest.mark.parametrize("kind", ImageFault)
def test_a_remedy_is_taken_from_the_kind_whatever_the_reason_says(kind: ImageFault) -> None:
    error = ImageError(kind, "truncated, corrupt, exceed the limit")
    assert str(error) == f"truncated, corrupt, exceed the limit; {IMAGE_REMEDIES[kind]}"
