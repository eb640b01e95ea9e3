"""`POST /v1/predict/batch` and tensors, on a real server."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from gapgate.data.transform import Transform
from tests.serving.packaged import SIZE_PX, picture

BATCH = "/v1/predict/batch"
TENSOR = {"content-type": "application/octet-stream"}
IMAGE_BYTES = SIZE_PX * SIZE_PX


@pytest.fixture(scope="session")
def one(client: httpx.Client) -> Any:
    """Image file → class, confidence and probabilities, asked for by itself."""

    def ask(data: bytes) -> dict[str, Any]:
        answer = client.post("/v1/predict", files={"image": data}).json()
        return {key: answer[key] for key in ("class", "confidence", "probabilities")}

    return ask


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Equal but for the rounding of another batch size."""
    close = found["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)
    return bool(close and found["class"] == expected["class"])


def test_each_image_gets_the_answer_it_gets_alone_and_in_its_place(client: httpx.Client, one: Any) -> None:
    pictures = [picture(20 + seed, 30, seed=seed) for seed in range(70)]
    answer = client.post(BATCH, files=[("images", (f"{n}.png", data)) for n, data in enumerate(pictures)]).json()
    assert set(answer) == {"results", "model", "receipt", "request_id"}
    assert [found["index"] for found in answer["results"]] == list(range(70))
    assert [found["filename"] for found in answer["results"]] == [f"{n}.png" for n in range(70)]
    assert all(same(found, one(data)) for found, data in zip(answer["results"], pictures, strict=True))


def test_a_bad_image_fails_alone_in_its_place(client: httpx.Client, one: Any) -> None:
    good = picture(16, 16)
    files = [("a", ("0.png", good)), ("b", ("1.txt", b"text")), ("c", ("2.png", good[:-40])), ("d", ("3.png", good))]
    response = client.post(BATCH, files=files)
    assert response.status_code == 200
    results = response.json()["results"]
    assert [found["index"] for found in results] == [0, 1, 2, 3]
    assert same(results[0], one(good))
    assert same(results[3], one(good))
    for bad in results[1:3]:
        assert set(bad) == {"index", "filename", "error"}
        assert bad["error"]["code"] == "invalid_image"
        assert bad["error"]["request_id"] == response.headers["x-request-id"]


def test_only_bad_images_are_still_a_batch(client: httpx.Client) -> None:
    results = client.post(BATCH, files=[("a", b"x"), ("b", b"")]).json()["results"]
    assert [found["error"]["code"] for found in results] == ["invalid_image", "invalid_image"]


def test_a_tensor_gets_the_answers_of_its_images(client: httpx.Client, one: Any, model_dir: Any) -> None:
    pictures = [picture(16, 16, seed=seed) for seed in range(3)]
    transform = Transform.from_file(model_dir / "transform.json")
    tensors = [transform.decode(data).tobytes() for data in pictures]
    single = client.post("/v1/predict", content=tensors[0], headers=TENSOR).json()
    assert same(single, one(pictures[0]))
    results = client.post(BATCH, content=b"".join(tensors), headers=TENSOR).json()["results"]
    assert all(same(found, one(data)) for found, data in zip(results, pictures, strict=True))
    assert all("filename" not in found for found in results)


@pytest.mark.parametrize("path", ["/v1/predict", BATCH])
@pytest.mark.parametrize("size", [1, IMAGE_BYTES - 1, IMAGE_BYTES + 1])
def test_a_tensor_of_another_size_is_refused_with_the_right_one(client: httpx.Client, path: str, size: int) -> None:
    response = client.post(path, content=bytes(size), headers=TENSOR)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "wrong_shape")
    assert "16×16×1" in error["message"]


def test_several_images_belong_to_the_batch_route(client: httpx.Client) -> None:
    response = client.post("/v1/predict", content=bytes(2 * IMAGE_BYTES), headers=TENSOR)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "wrong_shape")
    assert BATCH in response.json()["error"]["message"]


def test_more_images_than_the_limit_are_refused(client: httpx.Client) -> None:
    limit = client.get("/v1/model").json()["input"]["max_batch"]
    files = [("image", (f"{n}.png", b"x")) for n in range(limit + 1)]
    for response in (
        client.post(BATCH, files=files),
        client.post(BATCH, content=bytes((limit + 1) * IMAGE_BYTES), headers=TENSOR),
    ):
        assert (response.status_code, response.json()["error"]["code"]) == (413, "too_many_images")
        assert str(limit) in response.json()["error"]["message"]
    answered = client.post(BATCH, content=bytes(limit * IMAGE_BYTES), headers=TENSOR)
    assert len(answered.json()["results"]) == limit


def test_one_image_file_is_no_batch(client: httpx.Client) -> None:
    response = client.post(BATCH, content=picture(16, 16), headers={"content-type": "image/png"})
    assert (response.status_code, response.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert "multipart/form-data" in response.headers["accept-post"]


def test_top_k_limits_the_probabilities(client: httpx.Client) -> None:
    for top_k, count in ((1, 1), (3, 3), (1000, 7)):
        answer = client.post(f"/v1/predict?top_k={top_k}", files={"image": picture(16, 16)}).json()
        assert len(answer["probabilities"]) == count
        assert answer["class"] == next(iter(answer["probabilities"]))


@pytest.mark.parametrize(
    "query",
    [
        "top_k=0",
        "top_k=1001",
        "top_k=-1",
        "top_k=x",
        "top_k=",
        "top_k=1&top_k=2",
        "top_k=1e1",
        "top_k=%B2",
        "top_k=%FF",
    ],
)
def test_a_parameter_that_does_not_fit_is_named(client: httpx.Client, query: str) -> None:
    response = client.post(f"/v1/predict?{query}", files={"image": picture(16, 16)})
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_parameter")
