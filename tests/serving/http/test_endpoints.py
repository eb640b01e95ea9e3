"""Parts of answers, with a predictor whose answers are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gapgate.errors import ImageError, ImageFault
from gapgate.onnx.embedding_index import Neighbour
from serving.description.schema import ModelVersion
from serving.http import endpoints
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


REQUEST: Any = SimpleNamespace(id="q1")


@pytest.mark.parametrize(
    ("usual", "distances", "is_far"),
    [(0.25, (0.26, 0.5), True), (0.25, (0.25, 0.5), False), (0.25, (0.1, 0.9), False), (None, (0.9, 0.95), False)],
)
def test_an_image_is_far_where_its_nearest_neighbour_is_beyond_the_usual_distance(
    usual: float | None, distances: tuple[float, ...], is_far: bool
) -> None:
    image = np.full((1, 2, 2, 1), 4, np.uint8)
    found: Any = endpoints._neighbours(Predictor(distances, usual), REQUEST, image, 2)  # type: ignore[arg-type]
    assert (found.is_far, found.usual_distance) == (is_far, usual)
    assert (found.class_name, found.confidence) == ("bee", 0.5)
    assert [(one.id, one.class_name, one.distance) for one in found.neighbours] == [
        ("i0", "ant", distances[0]),
        ("i1", "bee", distances[1]),
    ]
    assert [one.thumbnail for one in found.neighbours] == ["dGh1bWJuYWlsIDEw", "dGh1bWJuYWlsIDEx"]


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_images_of_a_batch_are_ranked_chunk_by_chunk_in_their_order(count: int) -> None:
    images = (np.arange(count) % 256).astype(np.uint8)[:, None, None, None]
    found = endpoints._rank(Predictor(), images, 2, lambda: False)  # type: ignore[arg-type]
    assert [next(iter(row.values())) for row in found] == list(range(count))


def test_a_batch_is_left_where_nobody_waits_any_more() -> None:
    asked = iter([False, True])
    images = np.zeros((200, 1, 1, 1), np.uint8)
    assert len(endpoints._rank(Predictor(), images, 2, lambda: next(asked))) == endpoints.CHUNK  # type: ignore[arg-type]


def test_an_error_stands_at_the_place_of_its_image_and_the_answers_at_those_of_theirs() -> None:
    error = ImageError(ImageFault.EMPTY, "empty")
    found = endpoints.Classified(
        Predictor(),  # type: ignore[arg-type]
        [Upload(b"", filename=name) for name in ("a.png", None, "c.png", "d.png")],
        [{"bee": 0.75, "ant": 0.25}, {"cat": 0.5, "ant": 0.5}],
        {0: error, 2: error},
    )
    results = list(endpoints._results(REQUEST, found))
    assert [(one["index"], one.get("filename"), one.get("class"), one.get("confidence")) for one in results] == [
        (0, "a.png", None, None),
        (1, None, "bee", 0.75),
        (2, "c.png", None, None),
        (3, "d.png", "cat", 0.5),
    ]
    assert ["error" in one for one in results] == [True, False, True, False]
    assert results[1]["probabilities"] == {"bee": 0.75, "ant": 0.25}
