"""`POST /v1/predict` of a real server on a real Bento."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from gapgate.artifacts import Artifact
from gapgate.data.transform import Transform
from gapgate.onnx.classifier import Classifier, softmax
from serving.run import Server
from tests.serving.packaged import CLASS_NAMES, picture

PREDICT = "/v1/predict"
PNG = {"content-type": "image/png"}


@pytest.fixture(scope="session")
def expected(model_dir: Path) -> Any:
    """Image file → the probabilities of all classes, by the transform and the classifier called here."""
    transform = Transform.from_file(model_dir / "transform.json")
    classifier = Classifier.load(model_dir / "model.onnx")
    return lambda data: softmax(classifier.logits(transform.decode(data)[np.newaxis]))[0]


def assert_is_answer(answer: dict[str, Any], probabilities: Any) -> None:
    best = np.argsort(-probabilities)[:5]
    assert list(answer["probabilities"]) == [CLASS_NAMES[index] for index in best]
    assert list(answer["probabilities"].values()) == pytest.approx(probabilities[best], abs=1e-6)
    assert answer["class"] == CLASS_NAMES[best[0]]
    assert answer["confidence"] == max(answer["probabilities"].values())


def assert_is_error(response: httpx.Response, status: int, code: str) -> None:
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"code", "message", "request_id"}
    assert error["code"] == code
    assert "\n" not in error["message"]
    assert error["request_id"] == response.headers["x-request-id"]


def bilevel_png(width: int, height: int, rows: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("format", "width", "height"),
    [("PNG", 16, 16), ("PNG", 40, 25), ("JPEG", 200, 120), ("JPEG", 900, 700), ("WEBP", 300, 500)],
)
def test_the_answer_is_that_of_transform_and_classifier_called_directly(
    client: httpx.Client, expected: Any, format: str, width: int, height: int
) -> None:
    data = picture(width, height, format)
    response = client.post(PREDICT, content=data, headers={"content-type": f"image/{format.lower()}"})
    assert response.status_code == 200
    assert_is_answer(response.json(), expected(data))


@pytest.mark.parametrize("field", ["image", "file"])
def test_a_form_field_gets_the_same_answer_as_the_body(client: httpx.Client, expected: Any, field: str) -> None:
    data = picture(64, 64)
    response = client.post(PREDICT, files={field: ("a.png", data, "image/png")}, data={"note": "x"})
    assert response.status_code == 200
    assert_is_answer(response.json(), expected(data))


def test_a_part_with_an_image_type_and_no_file_name_is_a_file(client: httpx.Client, expected: Any) -> None:
    data = picture(32, 32)
    response = client.post(PREDICT, files={"image": (None, data, "image/png")})
    assert_is_answer(response.json(), expected(data))


def test_the_field_named_image_wins_over_an_earlier_file(client: httpx.Client, expected: Any) -> None:
    data = picture(32, 32, seed=1)
    files = [("other", ("b.png", picture(32, 32, seed=2))), ("image", ("a.png", data))]
    assert_is_answer(client.post(PREDICT, files=files).json(), expected(data))


@pytest.mark.parametrize("fields", [("image", "image"), ("a", "b")])
def test_two_images_are_not_silently_one(client: httpx.Client, fields: tuple[str, str]) -> None:
    response = client.post(PREDICT, files=[(field, picture(16, 16)) for field in fields])
    assert_is_error(response, 400, "bad_request")
    assert "/v1/predict/batch" in response.json()["error"]["message"]


def test_the_answer_names_the_model_and_the_receipt(client: httpx.Client, bento: Artifact) -> None:
    answer = client.post(PREDICT, content=picture(16, 16), headers=PNG).json()
    assert set(answer) == {"class", "confidence", "probabilities", "model", "receipt", "request_id"}
    assert answer["model"] == {"name": "digits", "version": "3"}
    assert answer["receipt"] == bento.read_json("package.json")["receipt"]


def test_a_request_keeps_its_id_and_gets_one_where_it_has_none_or_an_unfit_one(client: httpx.Client) -> None:
    def answered(headers: dict[str, str]) -> str:
        response = client.post(PREDICT, content=picture(16, 16), headers=PNG | headers)
        assert response.json()["request_id"] == response.headers["x-request-id"]
        return response.headers["x-request-id"]

    assert answered({"x-request-id": "trace-42"}) == "trace-42"
    assert answered({}) != answered({})
    assert len(answered({"x-request-id": "a b<script>"})) == 32


@pytest.mark.parametrize(
    "data",
    [b"not an image", picture(64, 64)[:-60], picture(64, 64, "JPEG")[:200], b"\x89PNG\r\n\x1a\n", b"GIF89a"],
    ids=["text", "truncated PNG", "truncated JPEG", "signature only", "GIF head"],
)
def test_a_damaged_image_is_the_clients_error(client: httpx.Client, data: bytes) -> None:
    assert_is_error(client.post(PREDICT, content=data, headers=PNG), 400, "invalid_image")


def computed_s(server: Server) -> float:
    """Processor time of the server's workers so far."""
    workers = psutil.Process(server.process.pid).children()
    return sum(sum(worker.cpu_times()[:2]) for worker in workers)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(client: httpx.Client, server: Server) -> None:
    bomb = bilevel_png(20_000, 20_000, zlib.compress(bytes(20_000 * (1 + 20_000 // 8)), 1))
    before_s = computed_s(server)
    assert client.post(
        PREDICT, content=picture(4_000, 4_000, "JPEG"), headers={"content-type": "image/jpeg"}
    ).is_success
    photograph_s, before_s = computed_s(server) - before_s, computed_s(server)
    response = client.post(PREDICT, content=bomb, headers=PNG)
    assert computed_s(server) - before_s < photograph_s
    assert_is_error(response, 400, "invalid_image")
    assert "50,000,000" in response.json()["error"]["message"]


def test_a_request_without_an_image_is_the_clients_error(client: httpx.Client) -> None:
    assert_is_error(client.post(PREDICT, headers=PNG), 400, "missing_image")
    assert_is_error(client.post(PREDICT, files={"image": ("a.png", b"")}), 400, "missing_image")
    # A part without a file name is taken for the image: urllib3 and requests send such parts.
    assert_is_error(client.post(PREDICT, files={"image": (None, b"a field, not a file")}), 400, "invalid_image")


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=x"])
def test_a_broken_form_is_the_clients_error(client: httpx.Client, content_type: str) -> None:
    response = client.post(PREDICT, content=b"no boundary", headers={"content-type": content_type})
    assert_is_error(response, 400, "bad_request")


@pytest.mark.parametrize("content_type", ["text/csv", "text/plain", "image/svg+xml", ""])
def test_another_content_type_is_refused_with_the_accepted_ones(client: httpx.Client, content_type: str) -> None:
    response = client.post(PREDICT, content=b"{}", headers={"content-type": content_type})
    assert_is_error(response, 415, "unsupported_media_type")
    assert "image/png" in response.headers["accept-post"]


def test_a_common_alias_of_jpeg_is_understood(client: httpx.Client) -> None:
    data = picture(64, 64, "JPEG")
    assert client.post(PREDICT, content=data, headers={"content-type": "image/jpg"}).status_code == 200


def test_a_body_over_the_limit_is_refused_whether_its_length_is_announced_or_not(client: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(11):
            yield bytes(2**20)

    assert_is_error(client.post(PREDICT, content=bytes(11 * 2**20), headers=PNG), 413, "body_too_large")
    assert_is_error(client.post(PREDICT, content=chunks(), headers=PNG), 413, "body_too_large")
    assert_is_error(client.post(PREDICT, files={"image": bytes(11 * 2**20)}), 413, "body_too_large")
    assert client.post(PREDICT, content=picture(16, 16), headers=PNG).status_code == 200


@pytest.mark.parametrize("path", ["/v1", "/v1/predict/", "/v3/predict", "/static/", "/static/../app.py"])
def test_an_unknown_path_is_not_found(client: httpx.Client, path: str) -> None:
    assert_is_error(client.get(path), 404, "not_found")


def test_another_method_is_refused_with_the_allowed_one(client: httpx.Client) -> None:
    response = client.get(PREDICT)
    assert_is_error(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_large_images_hold_up_neither_each_other_nor_the_health_check(client: httpx.Client, expected: Any) -> None:
    large = picture(4_000, 4_000, "JPEG")
    small = [picture(16, 16, seed=seed) for seed in range(24)]

    def predict(data: bytes) -> dict[str, Any]:
        content_type = "image/jpeg" if data is large else "image/png"
        answer: dict[str, Any] = client.post(PREDICT, content=data, headers={"content-type": content_type}).json()
        return answer

    with ThreadPoolExecutor(8) as threads:
        slow = [threads.submit(predict, large) for _ in range(2)]
        checks = 0
        while not all(future.done() for future in slow):
            assert client.get("/livez").status_code == 200
            checks += 1
        assert checks > 10  # one for each image, if they held it up
        answers = list(threads.map(predict, small))
    for data, answer in zip([*small, large, large], [*answers, *(future.result() for future in slow)], strict=True):
        assert_is_answer(answer, expected(data))


def test_live_and_ready_answer_200(client: httpx.Client) -> None:
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 200
