"""The Open Inference Protocol, by Triton's own client and by hand."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from gapgate.data.transform import Transform
from serving.run import Server
from tests.serving.packaged import CLASS_NAMES, SIZE_PX, picture

triton = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
errors = pytest.importorskip("tritonclient.utils")
FILES = [picture(20, 30, seed=1), picture(50, 40, "JPEG", seed=2), picture(16, 16, seed=3)]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    connected = triton.InferenceServerClient(server.url.removeprefix("http://"))
    yield connected
    connected.close()


@pytest.fixture(scope="module")
def tensors(model_dir: Path) -> NDArray[np.uint8]:
    """(3, H, W, C) uint8: the pictures as the model sees them."""
    transform = Transform.from_file(model_dir / "transform.json")
    return np.stack([transform.decode(data) for data in FILES])


@pytest.fixture(scope="module")
def expected(server: Server) -> list[dict[str, Any]]:
    """The answers of `/v1/predict`, with all classes."""
    headers = {"content-type": "image/png"}
    return [httpx.post(f"{server.url}/v1/predict?top_k=7", content=data, headers=headers).json() for data in FILES]


def check(result: Any, expected: list[dict[str, Any]]) -> None:
    assert [found.decode() if isinstance(found, bytes) else found for found in result.as_numpy("class")] == [
        answer["class"] for answer in expected
    ]
    probabilities = result.as_numpy("probabilities")
    assert probabilities.dtype == np.float32
    wanted = [[answer["probabilities"][name] for name in CLASS_NAMES] for answer in expected]
    np.testing.assert_allclose(probabilities, wanted, rtol=1e-5)


def test_the_client_of_triton_reads_the_state_and_the_description(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    described = client.get_model_metadata("digits")
    assert described["versions"] == ["3"]
    assert client.get_model_metadata("digits", "3") == described
    assert client.is_model_ready("digits", "3")
    assert not client.is_model_ready("digits", "2")
    assert described["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, SIZE_PX, SIZE_PX, 1]}]
    assert [output["name"] for output in described["outputs"]] == ["probabilities", "class"]


@pytest.mark.parametrize("binary", [True, False])
def test_a_tensor_gets_the_answers_of_the_other_routes(
    client: Any, tensors: NDArray[np.uint8], expected: list[dict[str, Any]], binary: bool
) -> None:
    given = triton.InferInput("images", list(tensors.shape), "UINT8")
    given.set_data_from_numpy(tensors, binary_data=binary)
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("probabilities", "class")]
    check(client.infer("digits", [given], outputs=outputs), expected)
    with pytest.raises(errors.InferenceServerException, match="there is no version '2' here; this server has '3'"):
        client.infer("digits", [given], model_version="2")
    result = client.infer("digits", [given], model_version="3", request_id="seven")
    check(result, expected)
    answer = result.get_response()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("digits", "3", "seven")
    assert answer["parameters"]["receipt"] == expected[0]["receipt"]


@pytest.mark.parametrize("shape", [[3], [3, 1]])
def test_image_files_as_bytes_too(client: Any, expected: list[dict[str, Any]], shape: list[int]) -> None:
    given = triton.InferInput("images", shape, "BYTES")
    given.set_data_from_numpy(np.array(FILES, dtype=np.object_).reshape(shape))
    check(client.infer("digits", [given]), expected)
    as_text = np.array([base64.b64encode(data) for data in FILES], dtype=np.object_).reshape(shape)
    given.set_data_from_numpy(as_text, binary_data=False)
    check(client.infer("digits", [given]), expected)


def test_an_error_reaches_the_client_in_words(client: Any, tensors: NDArray[np.uint8]) -> None:
    given = triton.InferInput("images", [2], "BYTES")
    given.set_data_from_numpy(np.array([FILES[0], b"no image"], dtype=np.object_))
    with pytest.raises(errors.InferenceServerException, match=r"image 1: not an image in one of the formats"):
        client.infer("digits", [given])
    given = triton.InferInput("images", list(tensors.shape), "UINT8")
    given.set_data_from_numpy(tensors)
    with pytest.raises(errors.InferenceServerException, match="this server has 'digits'"):
        client.infer("other", [given])


IMAGE = {"name": "images", "datatype": "UINT8", "shape": [1, SIZE_PX, SIZE_PX, 1], "data": [0] * SIZE_PX**2}


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        ({"inputs": []}, 400, "inputs: List should have at least 1 item"),
        ({"inputs": [IMAGE, IMAGE]}, 400, "at most 1 item"),
        ({"inputs": [IMAGE | {"datatype": "FP32"}]}, 400, "inputs.0.datatype"),
        ({"inputs": [IMAGE | {"shape": [1, 8, 8, 1]}]}, 400, r"the shape [1, 8, 8, 1], not [n, 16, 16, 1]"),
        ({"inputs": [IMAGE | {"shape": [0, SIZE_PX, SIZE_PX, 1], "data": []}]}, 400, "no image"),
        ({"inputs": [IMAGE | {"shape": [129, SIZE_PX, SIZE_PX, 1]}]}, 413, "129 images exceed 128"),
        ({"inputs": [IMAGE | {"shape": [2, SIZE_PX, SIZE_PX, 1]}]}, 400, "has 256 values; its shape"),
        ({"inputs": [IMAGE | {"data": [256, *[0] * 255]}]}, 400, "no whole number from 0 to 255"),
        ({"inputs": [IMAGE | {"data": [0.5, *[0] * 255]}]}, 400, "no whole number from 0 to 255"),
        ({"inputs": [IMAGE | {"data": None}]}, 400, "neither `data` nor a `binary_data_size`"),
        ({"inputs": [IMAGE], "outputs": [{"name": "logits"}]}, 400, "outputs.0.name"),
        ({"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "data": ["?"]}]}, 400, "not base64"),
    ],
)
def test_a_request_that_is_none_gets_the_reason(server: Server, content: Any, status: int, words: str) -> None:
    answer = httpx.post(f"{server.url}/v2/models/digits/infer", json=content)
    assert answer.status_code == status
    assert words in answer.json()["error"]
    assert set(answer.json()) == {"error", "code", "request_id"}


def test_numbers_may_be_nested_as_the_shape_is(server: Server) -> None:
    nested = np.zeros((1, SIZE_PX, SIZE_PX, 1), int).tolist()
    answers = [
        httpx.post(f"{server.url}/v2/models/digits/infer", json={"inputs": [IMAGE | {"data": data}]}).json()["outputs"]
        for data in (nested, IMAGE["data"])
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("length", ["-1", "x", "99999999", "10"])
def test_a_length_of_the_json_that_is_none_is_refused(server: Server, length: str) -> None:
    headers = {"inference-header-content-length": length}
    answer = httpx.post(f"{server.url}/v2/models/digits/infer", content=b'{"inputs": []}', headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


@pytest.mark.parametrize("sizes", [(4, 5), (4, 3), (2**31, 4)])
def test_lengths_of_files_that_do_not_add_up_are_refused(server: Server, sizes: tuple[int, int]) -> None:
    said, sent = sizes
    binary = said.to_bytes(4, "little") + bytes(sent)
    header = (
        '{"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], '
        f'"parameters": {{"binary_data_size": {len(binary)}}}}}]}}'
    ).encode()
    answer = httpx.post(
        f"{server.url}/v2/models/digits/infer",
        content=header + binary,
        headers={"inference-header-content-length": str(len(header))},
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
