"""Routes that run the model."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
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
from serving.http.form import Upload
from serving.http.inputs import Outcome, classify_files, decode, from_tensor, rank, read_upload, read_uploads
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
    answers: Sequence[Outcome]


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
        (probabilities,) = await _ranked(context, request, predictor, image, top_k)
    best = _best(probabilities)
    context.metrics.predicted(predictor, [best])
    _note(request, predictor, **{"class": best[0]})
    return json_response(_classified(probabilities) | _signed(predictor, request))


@route("post", "/v1/predict/batch", "predictBatch", BatchAnswer, parameters=(TOP_K,), images="many")
async def predict_batch(context: Context, request: Request) -> Response:
    """Classify several images.

    An image that cannot be read fails alone, in its place; the status is 200 all the same.
    """
    top_k = request.parameter(TOP_K)
    found = await classify(context, request, await read_uploads(request, request.options.max_batch), top_k)
    return json_response({"results": list(_results(request, found)), **_signed(found.predictor, request)})


async def _ranked(
    context: Context, request: Request, predictor: Predictor, images: NDArray[np.uint8], top_k: int
) -> list[dict[str, float]]:
    """Return the `top_k` classes of each image in (N, H, W, C) uint8."""
    # A quick network runs on the event loop: a thread would cost more than it frees (`QUICK_S`).
    if len(images) <= predictor.quick_images:
        return predictor.ranked(predictor.probabilities(images), top_k)
    return await context.work.in_thread(request, lambda cancelled: rank(predictor, images, top_k, cancelled))


async def classify(context: Context, request: Request, uploads: list[Upload], top_k: int) -> Classified:
    """Classify image files, or the images of one tensor.

    Raises:
        ApiError: 400, the tensor is none; 413, it holds too many images; 429 and 504, those of `Work`; 503, no model.
    """
    limit, limits = request.options.max_batch, context.work.limits
    async with context.work:
        predictor = context.models.require()
        answers: Sequence[Outcome]
        if uploads[0].is_tensor:
            images = from_tensor(predictor, uploads[0].data)
            if len(images) > limit:
                raise ApiError("too_many_images", f"{len(images):,} images exceed {limit:,}; send fewer at a time")
            uploads = [Upload(b"")] * len(images)  # images of a tensor have neither file names nor errors
            answers = await _ranked(context, request, predictor, images, top_k)
        else:
            answers = await context.work.in_thread(
                request, lambda cancelled: classify_files(predictor, uploads, limits, top_k, cancelled)
            )
    found = [_best(answer) for answer in answers if not isinstance(answer, ImageError)]
    context.metrics.predicted(predictor, found)
    _note(request, predictor, images=len(answers), failed=len(answers) - len(found))
    return Classified(predictor, uploads, answers)


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

        def explained(cancelled: Cancelled) -> Response:
            class_name, confidence = predictor.class_of(image, wanted)
            heat = predictor.heat(image, class_name, cancelled)
            if heat is None:  # cancelled; the client is gone, or `Work.in_thread` has answered 504
                raise ClientGoneError
            png = heat_png(image, heat)
            if request.prefers("image/png", "application/json"):
                return Response(png, content_type="image/png")
            answer = Explanation(
                class_name=class_name,
                confidence=confidence,
                method="occlusion",
                patch_px=heat.patch_px,
                stride_px=heat.stride_px,
                drops=heat.drops.tolist(),
                heat_png=_text(png),
                feature_maps=[_sheet(of) for of in predictor.layers.feature_maps(image)] if with_maps else None,
                **_signed(predictor, request),
            )
            return json_response(answer)

        return await context.work.in_thread(request, explained)


@route("post", "/v1/similar", "similar", Neighbours, own_errors=("no_index",), parameters=(NEIGHBOURS,), images="one")
async def similar(context: Context, request: Request) -> Response:
    """Find similar training images.

    The nearest images by the cosine distance of the model's embeddings; the search is exact.
    """
    count = request.parameter(NEIGHBOURS)
    upload = await read_upload(request)
    async with context.work:
        predictor = context.models.require()
        if (index := predictor.index) is None:
            raise ApiError("no_index", "this package holds no training images; package.similar_images is 0")
        _note(request, predictor)
        image = (await decode(context.work, request, predictor, upload))[0]

        def nearest(cancelled: Cancelled) -> Response:
            class_name, confidence = predictor.class_of(image)
            found, usual = predictor.nearest(image, count), index.usual_distance
            neighbours = [
                Neighbour(
                    id=neighbour.id,
                    class_name=predictor.class_names[neighbour.label],
                    distance=neighbour.distance,
                    thumbnail=_text(index.thumbnail(neighbour.row)),
                )
                for neighbour in found
            ]
            answer = Neighbours(
                class_name=class_name,
                confidence=confidence,
                neighbours=neighbours,
                usual_distance=usual,
                is_far=usual is not None and found[0].distance > usual,
                **_signed(predictor, request),
            )
            return json_response(answer)

        return await context.work.in_thread(request, nearest)


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


def _classified(probabilities: dict[str, float]) -> dict[str, Any]:
    """Return the fields of an answer that say what an image is."""
    class_name, confidence = _best(probabilities)
    return {"class": class_name, "confidence": confidence, "probabilities": probabilities}


def _results(request: Request, found: Classified) -> Iterator[dict[str, Any]]:
    """Yield a `BatchPrediction` or a `BatchFailure` for each upload, as a dict: to check 64 models again took 0.2 ms of
    the 6 ms of their request."""
    for index, (upload, answer) in enumerate(zip(found.uploads, found.answers, strict=True)):
        result: dict[str, Any] = {"index": index}
        if upload.filename is not None:
            result["filename"] = upload.filename
        if isinstance(answer, ImageError):
            result["error"] = ApiError("invalid_image", str(answer)).problem(request.id)
        else:
            result |= _classified(answer)
        yield result


def _sheet(found: FeatureMaps) -> FeatureMapSheet:
    png, columns = feature_maps_png(found.maps)
    return FeatureMapSheet(layer=found.layer, shape=found.maps.shape, columns=columns, png=_text(png))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
