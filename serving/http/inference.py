"""Routes of the Open Inference Protocol, version 2, which KServe, Triton and their clients speak: the same images and
limits as `/v1`, in tensors as JSON or with the binary extension."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import to_json

import gapgate
from gapgate.errors import ImageError
from serving.description.inference_schema import (
    InferenceAnswer,
    InferenceHealth,
    InferenceModel,
    InferenceServer,
    InferenceTensor,
)
from serving.description.route import MODEL_ERRORS, READY_ERRORS, route
from serving.http.endpoints import Classified, Context, classify
from serving.http.form import FormError, Upload, decode_base64, parse_json
from serving.http.request import Request
from serving.http.responses import ApiError, Response, json_response
from serving.model.predictor import Predictor

JSON_LENGTH = "inference-header-content-length"
"""Header of the binary extension: the bytes of the JSON, which the binary data follow."""
_LENGTH = struct.Struct("<I")
"""Length before each element of BYTES, 32 bits and little-endian."""


class _Input(BaseModel):
    name: str
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=8)]
    datatype: Literal["UINT8", "BYTES"]
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


class _Output(BaseModel):
    name: Literal["probabilities", "class"]
    parameters: dict[str, Any] = {}


class _Inference(BaseModel):
    id: str | None = None
    inputs: Annotated[list[_Input], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[_Output], Field(max_length=2)] = []
    parameters: dict[str, Any] = {}


@route("get", "/v2", "inferenceServer", InferenceServer)
async def server(context: Context, request: Request) -> Response:
    """Describe the server (Open Inference Protocol).

    As KServe and Triton do.
    """
    extensions = ["binary_tensor_data"]
    return json_response(InferenceServer(name="gapgate", version=gapgate.__version__, extensions=extensions))


@route(
    "get", "/v2/health/live", "inferenceLive", InferenceHealth, is_open=True,
    summary="Is the process alive? (Open Inference Protocol)",
)  # fmt: skip
async def live(context: Context, request: Request) -> Response:
    """Answer with 200 as long as the process lives.

    For KServe's clients; the same as `/livez`.
    """
    return json_response(InferenceHealth(live=True))


@route(
    "get", "/v2/health/ready", "inferenceReady", InferenceHealth, own_errors=READY_ERRORS, is_open=True,
    summary="Is the model ready? (Open Inference Protocol)",
)  # fmt: skip
async def ready(context: Context, request: Request) -> Response:
    """Answer with 200 if the model is ready.

    For KServe's clients; the same as `/readyz`.
    """
    context.require_ready()
    return json_response(InferenceHealth(ready=True))


@route("get", "/v2/models/{name}", "inferenceModel", InferenceModel, own_errors=(*MODEL_ERRORS, "not_found"))
async def model(context: Context, request: Request) -> Response:
    """Describe the model (Open Inference Protocol).

    Name and shape of its input and outputs.
    """
    predictor = _named(context, request)
    shape, num_classes = predictor.classifier.image_shape, len(predictor.class_names)
    return json_response(InferenceModel.of(predictor.model.name, predictor.model.version, shape, num_classes))


@route(
    "get", "/v2/models/{name}/ready", "inferenceModelReady", InferenceHealth, own_errors=(*READY_ERRORS, "not_found"),
    summary="Is this model ready? (Open Inference Protocol)",
)  # fmt: skip
async def model_ready(context: Context, request: Request) -> Response:
    """Answer with 200 if the model of this name is ready.

    For KServe's clients.
    """
    context.require_ready()
    return json_response(InferenceHealth(name=_named(context, request).model.name, ready=True))


@route(
    "post", "/v2/models/{name}/infer", "inferenceInfer", InferenceAnswer, own_errors=("not_found",), images="tensors"
)
async def infer(context: Context, request: Request) -> Response:
    """Classify images (Open Inference Protocol).

    One input: the images as `UINT8` of shape [n, height, width, channels], or image files as `BYTES` of shape [n]: in
    JSON as base64, with the header `Inference-Header-Content-Length` as binary data after the JSON. An image that
    cannot be read fails the request.
    """
    shape = _named(context, request).classifier.image_shape
    body = await request.body()
    asked, binary = _parse(request, body, max_values=request.options.max_batch * math.prod(shape) + 1024)
    uploads = _uploads(asked.inputs[0], binary, shape, request.options.max_batch)
    # Again: the model may have been switched while the body came.
    predictor = _named(context, request)
    found = await classify(context, request, uploads, len(predictor.class_names))
    return _answer(asked, found)


def _named(context: Context, request: Request) -> Predictor:
    """Return the model if it has the name in the path, and the version where one is there.

    Raises:
        ApiError: 404, it has another; 503, there is none.
    """
    predictor = context.models.require()
    served = {"name": predictor.model.name, "version": predictor.model.version}
    for part, asked in request.path_parameters.items():
        if asked != served[part]:
            what = "model" if part == "name" else "version"
            message = f"there is no {what} {asked[:100]!r} here; this server has {served[part]!r}"
            raise ApiError("not_found", message)
    return predictor


def _parse(request: Request, body: bytes, *, max_values: int) -> tuple[_Inference, bytes]:
    """Return a request and the binary data after its JSON.

    Raises:
        FormError: it is no request for inference.
    """
    length = request.header(JSON_LENGTH) or str(len(body))
    # Short, since `int` raises ValueError for more than 4,300 digits.
    if not (length.isascii() and length.isdecimal() and len(length) < 12 and int(length) <= len(body)):
        raise FormError(f"Inference-Header-Content-Length: {length[:40]} is not a number of bytes within the body")
    content, binary = body[: int(length)], body[int(length) :]
    try:
        return _Inference.model_validate(parse_json(content, max_values=max_values)), binary
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise FormError(f"{place or 'the JSON'}: {first['msg']}") from None


def _uploads(given: _Input, binary: bytes, image_shape: tuple[int, ...], limit: int) -> list[Upload]:
    """Return the images of an input: one tensor, or image files.

    Raises:
        ApiError: 413, too many images; 400, the shape is another one.
        FormError: the data are not as the input says.
    """
    count = given.shape[0] if given.shape else 0
    if given.datatype == "UINT8" and given.shape[1:] != list(image_shape):
        wanted = ", ".join(map(str, image_shape))
        raise ApiError("wrong_shape", f"{given.name} has the shape {given.shape}, not [n, {wanted}]")
    if given.datatype == "BYTES" and math.prod(given.shape) != count:
        raise ApiError("wrong_shape", f"{given.name} has the shape {given.shape}; image files have [n] or [n, 1]")
    if count < 1:
        raise ApiError("missing_image", f"{given.name} holds no image")
    if count > limit:
        raise ApiError("too_many_images", f"{count:,} images exceed {limit:,}; send fewer at a time")
    size = math.prod(given.shape)
    if given.data is None:
        # All of the binary data: a request has one input.
        if given.parameters.get("binary_data_size") != len(binary):
            missing = f"`data` nor a `binary_data_size` of the {len(binary):,} bytes after the JSON"
            raise FormError(f"{given.name} has neither {missing}")
        if given.datatype == "BYTES":
            return [*_files(given.name, binary, count)]
        if len(binary) != size:
            raise FormError(f"{given.name} has {len(binary):,} bytes; its shape {given.shape} has {size:,}")
        return [Upload(binary, is_tensor=True)]
    flat = given.data
    while flat and all(isinstance(item, list) for item in flat):  # lists of lists, row by row
        flat = list(chain.from_iterable(flat))
    if len(flat) != size:
        raise FormError(f"{given.name} has {len(flat):,} values; its shape {given.shape} has {size:,}")
    if given.datatype == "BYTES":
        return [Upload(decode_base64(text, f"{given.name}[{index}]")) for index, text in enumerate(flat)]
    try:
        return [Upload(bytes(flat), is_tensor=True)]  # raises for what is no whole number from 0 to 255
    except (ValueError, TypeError):
        raise FormError(f"{given.name} has a value that is no whole number from 0 to 255") from None


def _files(name: str, data: bytes, count: int) -> Iterator[Upload]:
    """Yield `count` image files, each after its length.

    Raises:
        FormError: their lengths are not those of the data.
    """
    offset = 0
    for index in range(count):
        end = offset + _LENGTH.size
        if end <= len(data):
            offset, end = end, end + _LENGTH.unpack_from(data, offset)[0]
        if end > len(data):
            raise FormError(f"{name}[{index}] has more bytes than were sent")
        yield Upload(data[offset:end])
        offset = end
    if offset != len(data):
        raise FormError(f"{name} has {len(data) - offset:,} bytes after its {count} images")


def _answer(asked: _Inference, found: Classified) -> Response:
    names = found.predictor.class_names
    rows: list[list[float]] = []
    best: list[str] = []
    for index, answer in enumerate(found.answers):
        if isinstance(answer, ImageError):  # the protocol has no place for the error of one image
            raise ApiError("invalid_image", f"image {index}: {answer}")
        rows.append([answer[name] for name in names])
        best.append(next(iter(answer)))
    wanted = asked.outputs or [_Output(name="probabilities"), _Output(name="class")]
    outputs: list[InferenceTensor] = []
    binary: list[bytes] = []
    for output in wanted:
        is_class = output.name == "class"
        more: dict[str, Any] = {}
        # What an output says counts before what the request says for all (Triton's binary extension).
        if output.parameters.get("binary_data", asked.parameters.get("binary_data_output")) is True:
            # Binary data are little-endian, whatever the machine.
            texts = (_LENGTH.pack(len(text)) + text for text in map(str.encode, best))
            binary.append(b"".join(texts) if is_class else np.asarray(rows, "<f4").tobytes())
            more["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            more["data"] = best if is_class else [*chain.from_iterable(rows)]
        kind, shape = ("BYTES", [len(rows)]) if is_class else ("FP32", [len(rows), len(names)])
        outputs.append(InferenceTensor(name=output.name, datatype=kind, shape=shape, **more))
    predictor = found.predictor
    content = InferenceAnswer(
        model_name=predictor.model.name,
        model_version=predictor.model.version,
        id=asked.id,
        parameters={"receipt": predictor.receipt},
        outputs=outputs,
    )
    if not binary:
        return json_response(content)
    head = to_json(content, by_alias=True, exclude_none=True)
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return Response(b"".join([head, *binary]), content_type="application/octet-stream", headers=headers)
