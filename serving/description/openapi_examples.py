"""Examples for the description of the service: answers that fit their models, and commands that work as pasted."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from serving.description.inference_schema import (
    InferenceAnswer,
    InferenceHealth,
    InferenceModel,
    InferenceServer,
    InferenceTensor,
)
from serving.description.route import Route
from serving.description.schema import (
    Answer,
    BatchAnswer,
    BatchFailure,
    BatchPrediction,
    Explanation,
    Gap,
    Gate,
    Health,
    ModelCard,
    Neighbour,
    Neighbours,
    Prediction,
    Problem,
    ReceiptAnswer,
)

SAMPLES = Path(__file__).with_name("samples.toml")
_REQUEST_ID = "5f0c8d2a6b7e4c1d9a3f2e1b0c4d5e6f"
_PNG = "iVBORw0KGgo..."
_JPEG = "/9j/4AAQSkZJRg..."


def without_secrets(card: ModelCard) -> ModelCard:
    """Return the card with everything except the input contract replaced by examples."""
    digest = "sha256:" + "0" * 64
    return card.model_copy(
        update={
            "name": "model",
            "version": "1",
            "receipt": digest,
            "package": digest,
            "classes": ["cat", "dog", "fox"],
            "metrics": {"test_accuracy": 0.91, "train_accuracy": 0.93},
            "gap": Gap(points=2.0, low=1.4, high=2.6),
            "gate": Gate(verdict="pass", checks=[]),
            "data": {"source": "data/animals"},
            "training_data": digest,
            "code_revision": "0" * 40,
            "versions": {"python": "3.11"},
            "similar": 1000,
        }
    )


def example(model: type[Answer], operation: str, card: ModelCard) -> dict[str, Any]:
    """Return an answer of type `model` to `operation`, with this server's classes, model and receipt."""
    answers = _answers(card)
    if operation in ("live", "inferenceLive"):
        answers |= {Health: Health(status="live"), InferenceHealth: InferenceHealth(live=True)}
    answer = answers[model]
    return answer.model_dump(mode="json", by_alias=True, exclude_none=True)


def _answers(card: ModelCard) -> dict[type[Answer], Answer]:
    signed: dict[str, Any] = {"model": {"name": card.name, "version": card.version}, "receipt": card.receipt}
    signed["request_id"] = _REQUEST_ID
    shape = (card.input.height, card.input.width, card.input.channels)
    figures = (0.9271, 0.0514, 0.0125)
    # A model of two classes has two figures.
    ranked = dict(zip(card.classes, figures, strict=False))
    best: dict[str, Any] = {"class_name": card.classes[0], "confidence": figures[0]}
    failed = Problem(
        code="invalid_image", message="the image is truncated; send the whole file", request_id=_REQUEST_ID
    )
    answers: list[Answer] = [
        card,
        Prediction(**best, probabilities=ranked, **signed),
        BatchAnswer(
            results=[
                BatchPrediction(index=0, filename="a.png", **best, probabilities=ranked),
                BatchFailure(index=1, filename="b.png", error=failed),
            ],
            **signed,
        ),
        Explanation(
            **best,
            method="occlusion",
            patch_px=7,
            stride_px=3,
            drops=[[0.01, 0.42], [-0.02, 0.3]],
            heat_png=_PNG,
            **signed,
        ),
        Neighbours(
            neighbours=[
                Neighbour(id="train/00042.png", class_name=card.classes[0], distance=0.031, thumbnail=_JPEG),
            ],
            usual_distance=0.052,
            **best,
            **signed,
        ),
        ReceiptAnswer(
            receipt={"model_name": card.name, "model_version": card.version, "code_revision": card.code_revision},
            lineage={"model": {"kind": "model", "inputs": {"splits": card.training_data}}},
            package=card.package,
        ),
        Health(status="ready"),
        InferenceHealth(ready=True),
        InferenceServer(name="gapgate", version="0.2.0", extensions=["binary_tensor_data"]),
        InferenceModel.of(card.name, card.version, shape, len(card.classes)),
        InferenceAnswer(
            model_name=card.name,
            model_version=card.version,
            parameters={"receipt": card.receipt},
            outputs=[InferenceTensor(name="class", datatype="BYTES", shape=[1], data=card.classes[:1])],
        ),
    ]
    return {type(answer): answer for answer in answers}


def samples(route: Route, card: ModelCard, url: str, with_key: bool) -> list[dict[str, str]]:
    """Return commands for a shell, and programs in Python and JavaScript for routes that take an image, in the form of
    the extension `x-codeSamples`: `lang`, `label`, `source`."""
    num_bytes = card.input.height * card.input.width * card.input.channels
    words = {
        "address": url + route.path.format(digest=card.receipt, name=card.name),
        "example": f"{url}/static/example.png",
        "picture": f"curl -sS {url}/static/example.png |",
        "curl": 'curl -sS -H "X-API-Key: $GAPGATE_API_KEY"' if with_key else "curl -sS",
        "as_png": "-H 'Content-Type: image/png' --data-binary @-",
        "as_json": "-H 'Content-Type: application/json' --data-binary @-",
        "as_tensor": "-H 'Content-Type: application/octet-stream' --data-binary @-",
        "image_bytes": num_bytes,
        "two_images_bytes": 2 * num_bytes,
        "python_import": "import os\n\n" if with_key else "",
        "python_headers": ', headers={"X-API-Key": os.environ["GAPGATE_API_KEY"]}' if with_key else "",
        "script_headers": ', headers: { "X-API-Key": process.env.GAPGATE_API_KEY }' if with_key else "",
    }
    every = _samples()
    general = every["get"] if route.method == "get" else every["one"] if route.images == "one" else []
    return [
        {"lang": "Shell", **sample, "source": Template(sample["source"]).substitute(words)}
        for sample in (*general, *every.get(route.name, ()))
    ]


@cache
def _samples() -> dict[str, list[dict[str, str]]]:
    return tomllib.loads(SAMPLES.read_text())
