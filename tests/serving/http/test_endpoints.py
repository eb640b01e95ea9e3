"""Parts of answers, with a predictor whose answers are known."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gapgate.errors import ImageError, ImageFault
from gapgate.onnx.embedding_index import Neighbour
from serving.description.schema import ModelVersion
from serving.http import endpoints, inputs
from serving.http.form import Upload

NAMES = ("ant", "bee", "cat")


class Predictor:
    """A predictor that is the surer of class `first pixel modulo 3` the larger that pixel is."""

    model = ModelVersion(name="m", version="3")
    receipt = "sha256:r"
    class_names = NAMES

    def __init__(self, distances: tuple[float, ...] = (), usual: float | None = None) -> None:
        self._distances = distances
        self.index = SimpleNamespace(usual_distance=usual, thumbnail=lambda row: f"thumbnail {row}".encode())

    def class_of(self, image: np.ndarray, wanted: str | None = None) -> tuple[str, float]:
        return NAMES[image[0, 0, 0] % 3], 0.5

    def nearest(self, image: np.ndarray, count: int) -> list[Neighbour]:
        return [Neighbour(10 + at, f"i{at}", at, distance) for at, distance in enumerate(self._distances)][:count]

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        return images[:, 0, 0, 0]

    def ranked(self, found: np.ndarray, top_k: int) -> list[dict[str, float]]:
        return [{NAMES[value % 3]: float(value), "k": float(top_k)} for value in found.tolist()]


REQUEST: Any = SimpleNamespace(id="q1", notes={}, parameter=lambda parameter: 2)


class Work:
    """Work that is done at once."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def in_thread(self, request: Any, call: Any) -> Any:
        return call(lambda: False)


@pytest.mark.parametrize(
    ("usual", "distances", "is_far"),
    [(0.25, (0.26, 0.5), True), (0.25, (0.25, 0.5), False), (0.25, (0.1, 0.9), False), (None, (0.9, 0.95), False)],
)
def test_an_image_is_far_where_its_nearest_neighbour_is_beyond_the_usual_distance(
    monkeypatch: pytest.MonkeyPatch, usual: float | None, distances: tuple[float, ...], is_far: bool
) -> None:
    async def decode(*_: Any) -> np.ndarray:
        return np.full((1, 2, 2, 1), 4, np.uint8)

    async def read_upload(request: Any) -> Upload:
        return Upload(b"")

    monkeypatch.setattr(endpoints, "decode", decode)
    monkeypatch.setattr(endpoints, "read_upload", read_upload)
    context: Any = SimpleNamespace(
        work=Work(), models=SimpleNamespace(require=lambda: Predictor(distances, usual)), metrics=None, routes=()
    )
    found = json.loads(asyncio.run(endpoints.similar.respond(context, REQUEST)).body)
    assert (found["is_far"], found.get("usual_distance")) == (is_far, usual)
    assert (found["class"], found["confidence"]) == ("bee", 0.5)
    assert [(one["id"], one["class"], one["distance"]) for one in found["neighbours"]] == [
        ("i0", "ant", distances[0]),
        ("i1", "bee", distances[1]),
    ]
    assert [one["thumbnail"] for one in found["neighbours"]] == ["dGh1bWJuYWlsIDEw", "dGh1bWJuYWlsIDEx"]


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_images_of_a_batch_are_ranked_chunk_by_chunk_in_their_order(count: int) -> None:
    images = (np.arange(count) % 256).astype(np.uint8)[:, None, None, None]
    found = inputs.rank(Predictor(), images, 2, lambda: False)  # type: ignore[arg-type]
    assert [next(iter(row.values())) for row in found] == list(range(count))


def test_a_batch_is_left_where_nobody_waits_any_more() -> None:
    asked = iter([False, True])
    images = np.zeros((200, 1, 1, 1), np.uint8)
    assert len(inputs.rank(Predictor(), images, 2, lambda: next(asked))) == inputs.CHUNK  # type: ignore[arg-type]


def test_an_error_stands_at_the_place_of_its_image_and_the_answers_at_those_of_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = ImageError(ImageFault.EMPTY, "empty")
    decoded = [error, np.full((1, 1, 1), 7, np.uint8), error, np.full((1, 1, 1), 5, np.uint8)]
    monkeypatch.setattr(inputs, "decode_all", lambda *_: decoded)
    uploads = [Upload(b"", filename=name) for name in ("a.png", None, "c.png", "d.png")]
    answers: Any = inputs.classify_files(Predictor(), uploads, None, 2, lambda: False)  # type: ignore[arg-type]
    assert answers == [error, {"bee": 7.0, "k": 2.0}, error, {"cat": 5.0, "k": 2.0}]
    found = endpoints.Classified(Predictor(), uploads, answers)  # type: ignore[arg-type]
    results = list(endpoints._results(REQUEST, found))
    assert [(one["index"], one.get("filename"), one.get("class"), one.get("confidence")) for one in results] == [
        (0, "a.png", None, None),
        (1, None, "bee", 7.0),
        (2, "c.png", None, None),
        (3, "d.png", "cat", 5.0),
    ]
    assert ["error" in one for one in results] == [True, False, True, False]
