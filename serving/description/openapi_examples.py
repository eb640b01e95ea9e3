"""Examples for the description of the service: answers that fit their models, and commands that work as pasted."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from serving.description.inference_schema import InferenceModel
from serving.description.route import Route
from serving.description.schema import Gap, Gate, ModelCard

Json = dict[str, Any]

SAMPLES = Path(__file__).with_name("samples.toml")


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


def example(route: Route, card: ModelCard) -> Json:
    """Return a JSON answer of a route, with this server's classes, model and receipt."""
    model = {"name": card.name, "version": card.version}
    request_id = "5f0c8d2a6b7e4c1d9a3f2e1b0c4d5e6f"
    signed: Json = {"model": model, "receipt": card.receipt, "request_id": request_id}
    best: Json = {"class": card.classes[0], "confidence": 0.9271}
    # A model of two classes has two figures.
    ranked: Json = {**best, "probabilities": dict(zip(card.classes, (0.9271, 0.0514, 0.0125), strict=False))}
    damage = "the image is truncated; send the whole file"
    failed: Json = {"error": {"code": "invalid_image", "message": damage, "request_id": request_id}}
    neighbour: Json = {
        "id": "train/00042.png",
        "class": best["class"],
        "distance": 0.031,
        "thumbnail": "/9j/4AAQSkZJRg...",
    }
    shape = (card.input.height, card.input.width, card.input.channels)
    batch = [{"index": 0, "filename": "a.png", **ranked}, {"index": 1, "filename": "b.png", **failed}]
    heat: Json = {"drops": [[0.01, 0.42], [-0.02, 0.3]], "heat_png": "iVBORw0KGgo..."}
    answers: dict[str, Json] = {
        "predict": ranked | signed,
        "predictBatch": signed | {"results": batch},
        "explain": best | signed | {"method": "occlusion", "patch_px": 7, "stride_px": 3, **heat},
        "similar": best | signed | {"neighbours": [neighbour], "usual_distance": 0.052, "is_far": False},
        "model": card.model_dump(mode="json", by_alias=True, exclude_none=True),
        "receipt": {
            "receipt": {"model_name": card.name, "model_version": card.version, "code_revision": card.code_revision},
            "lineage": {"model": {"kind": "model", "inputs": {"splits": card.training_data}}},
            "package": card.package,
        },
        "live": {"status": "live"},
        "ready": {"status": "ready"},
        "inferenceServer": {"name": "gapgate", "version": "0.2.0", "extensions": ["binary_tensor_data"]},
        "inferenceLive": {"live": True},
        "inferenceReady": {"ready": True},
        "inferenceModel": InferenceModel.of(card.name, card.version, shape, len(card.classes)).model_dump(),
        "inferenceModelReady": {"ready": True},
        "inferenceInfer": {
            "model_name": card.name,
            "model_version": card.version,
            "parameters": {"receipt": card.receipt},
            "outputs": [{"name": "class", "datatype": "BYTES", "shape": [1], "data": card.classes[:1]}],
        },
    }
    return answers[route.name]


def samples(route: Route, card: ModelCard, url: str, with_key: bool) -> list[dict[str, str]]:
    """Return commands for a shell, and programs in Python and JavaScript for routes that take an image, in the form of
    the extension `x-codeSamples`: `lang`, `label`, `source`."""
    num_bytes = card.input.height * card.input.width * card.input.channels
    words = {
        "address": url + route.path.format(digest=card.receipt, name=card.name),
        "example": f"{url}/static/example.png",
        "curl": 'curl -sS -H "X-API-Key: $GAPGATE_API_KEY"' if with_key else "curl -sS",
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
