"""Routes that run the model."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapgate.errors import ImageError
from gapgate.onnx.inner_layers import FeatureMaps
from gapgate.onnx.occlusion import feature_maps_png, heat_png
from serving.description.route import Parameter, Route, route
from serving.description.schema import (
    BatchAnswer,
    Explanation,
    FeatureMapSheet,
    Neighbour,
    Neighbours,
    Prediction,
)
from serving.guard.image_guard import Limits
from serving.http.form import Upload
from serving.http.inputs import decode, decode_all, from_tensor, read_upload, read_uploads
from serving.http.request import ClientGoneError, Request
from serving.http.responses import ApiError, Response, json_response
from serving.http.work import Cancelled, Work
from serving.model.models import Models
from serving.model.predictor import Predictor
from serving.telemetry.metrics import Metrics

_TO_1000 = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 5}
TOP_K = Parameter("top_k", "Number of classes in the answer, the most probable ones.", _TO_1000)
NEIGHBOURS = Parameter("k", "Number of training images in the answer.", _TO_1000 | {"maximum": 100})
CLASS = Parameter("class", "The class to explain; else the most probable.", {"type": "string"})
MAPS = Parameter("feature_maps", "Whether to add what each layer computes.", {"type": "boolean", "default": False})
CHUNK = 64
"""Images of a batch that are classified between two checks whether the client is still there."""


@dataclass(frozen=True, slots=True)
class Context:
    """Objects that all endpoints of a worker share."""

    models: Models
    work: Work
    metrics: Metrics
    routes: tuple[Route, ...]
    """All routes of the application, for their description."""

    def require_ready(self) -> None:
        """Return if the server is ready.

        Raises:
            ApiError: 503, there is no model, or the server is ending.
        """
        if self.work.draining:
            raise ApiError("not_ready", "the server is ending")
        self.models.require()


@dataclass(frozen=True, slots=True)
class Classified:
    """The classes of the images of one request."""

    predictor: Predictor
    uploads: list[Upload]
    ranked: list[dict[str, float]]
    """The most probable classes of each image without an error, in order."""
    errors: dict[int, ImageError]
    """Index of an image that cannot be used → why."""


@route("post", "/v1/predict", "predict", Prediction, parameters=(TOP_K,), images="one")
async def predict(context: Context, request: Request) -> Response:
    """Classify one image.

    An image file of any size is converted and resized as for training: upright by its EXIF orientation, transparent
    pixels on the background of training, the first frame of an animation. Its content tells its format, not its
    declared type. A form holds it as the field `image`, or as its only file.
    """
    top_k = request.parameter(TOP_K)
    upload = await read_upload(request)
    async with context.work:
        # Taken once: a switch of the model during an `await` must not mix two models in one answer.
        predictor = context.models.require()
        image = await decode(context.work, request, predictor, upload)
        # A quick network runs on the event loop: a thread would cost more than it frees (`QUICK_S`).
        if predictor.quick_images:
            found = predictor.probabilities(image)
        else:
            found = await context.work.in_thread(request, lambda _: predictor.probabilities(image))
        probabilities = predictor.ranked(found, top_k)[0]
    class_name, confidence = _best(probabilities)
    context.metrics.predicted(predictor, [(class_name, confidence)])
    _note(request, predictor, **{"class": class_name})
    return json_response(
        Prediction(
            class_name=class_name,
            confidence=confidence,
            probabilities=probabilities,
            **_signed(predictor, request),
        )
    )


@route("post", "/v1/predict/batch", "predictBatch", BatchAnswer, parameters=(TOP_K,), images="many")
async def predict_batch(context: Context, request: Request) -> Response:
    """Classify several images.

    An image that cannot be read fails alone, in its place; the status is 200 all the same.
    """
    top_k = request.parameter(TOP_K)
    found = await classify(context, request, await read_uploads(request, request.options.max_batch), top_k)
    return json_response({"results": list(_results(request, found)), **_signed(found.predictor, request)})


async def classify(context: Context, request: Request, uploads: list[Upload], top_k: int) -> Classified:
    """Classify image files, or the images of one tensor.

    Raises:
        ApiError: 400, the tensor is none; 413, it holds too many images; 429 and 504, those of `Work`; 503, no model.
    """
    limit, limits = request.options.max_batch, context.work.limits
    async with context.work:
        predictor = context.models.require()
        errors: dict[int, ImageError] = {}
        if uploads[0].is_tensor:
            images = from_tensor(predictor, uploads[0].data)
            if len(images) > limit:
                raise ApiError("too_many_images", f"{len(images):,} images exceed {limit:,}; send fewer at a time")
            uploads = [Upload(b"")] * len(images)  # images of a tensor have neither file names nor errors
            if len(images) <= predictor.quick_images:
                ranked = predictor.ranked(predictor.probabilities(images), top_k)
            else:
                ranked = await context.work.in_thread(
                    request, lambda cancelled: _rank(predictor, images, top_k, cancelled)
                )
        else:
            ranked, errors = await context.work.in_thread(
                request, lambda cancelled: _decode_and_rank(predictor, uploads, limits, top_k, cancelled)
            )
    context.metrics.predicted(predictor, map(_best, ranked))
    _note(request, predictor, images=len(ranked) + len(errors), failed=len(errors))
    return Classified(predictor, uploads, ranked, errors)


@route("post", "/v1/explain", "explain", Explanation, "image/png", parameters=(CLASS, MAPS), images="one")
async def explain(context: Context, request: Request) -> Response:
    """Show which pixels mattered.

    Hides one patch of the image after the other and tells how far the probability falls. With `Accept: image/png` the
    answer is the heat map itself.
    """
    wanted, with_maps = request.parameter(CLASS), request.parameter(MAPS)
    upload = await read_upload(request)
    async with context.work:
        predictor = context.models.require()
        if wanted is not None and wanted not in predictor.class_names:
            raise ApiError("invalid_parameter", f"class={wanted[:100]} is not known; /v1/model lists the classes")
        _note(request, predictor)
        image = (await decode(context.work, request, predictor, upload))[0]
        return await context.work.in_thread(
            request, lambda cancelled: _explain(predictor, request, image, wanted, with_maps, cancelled)
        )


@route("post", "/v1/similar", "similar", Neighbours, errors=("no_index",), parameters=(NEIGHBOURS,), images="one")
async def similar(context: Context, request: Request) -> Response:
    """Find similar training images.

    The nearest images by the cosine distance of the model's embeddings; the search is exact.
    """
    count = request.parameter(NEIGHBOURS)
    upload = await read_upload(request)
    async with context.work:
        predictor = context.models.require()
        if predictor.index is None:
            raise ApiError("no_index", "this package holds no training images; package.similar_images is 0")
        _note(request, predictor)
        image = await decode(context.work, request, predictor, upload)
        neighbours = await context.work.in_thread(request, lambda _: _neighbours(predictor, request, image, count))
    return json_response(neighbours)


def _note(request: Request, predictor: Predictor, **more: Any) -> None:
    """Tell the log which model answers, and what."""
    request.notes |= {
        "model": f"{predictor.model.name}/{predictor.model.version}",
        "receipt": predictor.receipt,
        **more,
    }


def _signed(predictor: Predictor, request: Request) -> dict[str, Any]:
    """Return the fields of an answer that say what is behind it."""
    return {"model": predictor.model, "receipt": predictor.receipt, "request_id": request.id}


def _best(probabilities: dict[str, float]) -> tuple[str, float]:
    return next(iter(probabilities.items()))


def _decode_and_rank(
    predictor: Predictor, uploads: list[Upload], limits: Limits, top_k: int, cancelled: Cancelled
) -> tuple[list[dict[str, float]], dict[int, ImageError]]:
    """Return the ranked probabilities of the images that can be decoded, and the errors of the others by index."""
    decoded = decode_all(predictor, uploads, limits, cancelled)
    errors = {index: found for index, found in enumerate(decoded) if isinstance(found, ImageError)}
    images = [found for found in decoded if not isinstance(found, ImageError)]
    return (_rank(predictor, np.stack(images), top_k, cancelled) if images else []), errors


def _rank(predictor: Predictor, images: NDArray[np.uint8], top_k: int, cancelled: Cancelled) -> list[dict[str, float]]:
    """Return the `top_k` classes of each image in (N, H, W, C) uint8; fewer if nobody waits any more."""
    ranked: list[dict[str, float]] = []
    for start in range(0, len(images), CHUNK):
        if cancelled():
            break
        ranked += predictor.ranked(predictor.probabilities(images[start : start + CHUNK]), top_k)
    return ranked


def _results(request: Request, found: Classified) -> Iterator[dict[str, Any]]:
    """Yield a `BatchPrediction` or a `BatchFailure` for each upload, as a dict: to check 64 models again took 0.2 ms of
    the 6 ms of their request."""
    answers = iter(found.ranked)
    for index, upload in enumerate(found.uploads):
        result: dict[str, Any] = {"index": index}
        if upload.filename is not None:
            result["filename"] = upload.filename
        if index in found.errors:
            result["error"] = ApiError("invalid_image", str(found.errors[index])).problem(request.id)
        else:
            probabilities = next(answers)
            class_name, confidence = _best(probabilities)
            result |= {"class": class_name, "confidence": confidence, "probabilities": probabilities}
        yield result


def _explain(
    predictor: Predictor,
    request: Request,
    image: NDArray[np.uint8],
    wanted: str | None,
    with_maps: bool,
    cancelled: Cancelled,
) -> Response:
    class_name, probability = predictor.class_of(image, wanted)
    heat = predictor.heat(image, class_name, cancelled)
    if heat is None:  # cancelled; the client is gone, or `Work.in_thread` has answered 504
        raise ClientGoneError
    if request.prefers("image/png", "application/json"):
        return Response(heat_png(image, heat), content_type="image/png")
    sheets = [_sheet(found) for found in predictor.layers.feature_maps(image)] if with_maps else None
    return json_response(
        Explanation(
            class_name=class_name,
            confidence=probability,
            method="occlusion",
            patch_px=heat.patch_px,
            stride_px=heat.stride_px,
            drops=heat.drops.tolist(),
            heat_png=_text(heat_png(image, heat)),
            feature_maps=sheets,
            **_signed(predictor, request),
        )
    )


def _sheet(found: FeatureMaps) -> FeatureMapSheet:
    png, columns = feature_maps_png(found.maps)
    return FeatureMapSheet(layer=found.layer, shape=found.maps.shape, columns=columns, png=_text(png))


def _neighbours(predictor: Predictor, request: Request, image: NDArray[np.uint8], count: int) -> Neighbours:
    assert predictor.index is not None
    class_name, confidence = predictor.class_of(image[0])
    found, usual = predictor.nearest(image[0], count), predictor.index.usual_distance
    return Neighbours(
        usual_distance=usual,
        is_far=usual is not None and found[0].distance > usual,
        neighbours=[
            Neighbour(
                id=neighbour.id,
                class_name=predictor.class_names[neighbour.label],
                distance=neighbour.distance,
                thumbnail=_text(predictor.index.thumbnail(neighbour.row)),
            )
            for neighbour in found
        ],
        class_name=class_name,
        confidence=confidence,
        **_signed(predictor, request),
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
