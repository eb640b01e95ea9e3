"""OpenAPI 3.1 description of the service, from the models in `serving.description.schema` and the table of routes."""

from __future__ import annotations

import math
from functools import cache
from http import HTTPStatus
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, models_json_schema

import gapgate
from serving.description.inference_schema import InferenceError
from serving.description.openapi_examples import example, samples
from serving.description.route import Route
from serving.description.schema import Answer, ErrorAnswer, ModelCard
from serving.http.request import FORM_TYPE, TENSOR_TYPE
from serving.http.responses import ERRORS, JSON_TYPE

Json = dict[str, Any]

BINARY: Json = {"type": "string", "format": "binary"}


def spec(routes: tuple[Route, ...], card: ModelCard, *, url: str = "", keys_required: bool = False) -> Json:
    """Describe a server.

    Args:
        routes: all routes of the application.
        card: the answer of `GET /v1/model`, with the classes, the shape of an image and the limits.
        url: `http://host:port` as the client sees it, for the commands to paste; empty: relative addresses.
        keys_required: True if the server is configured with keys.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Gapgate prediction service",
            "version": gapgate.__version__,
            "description": f"Classifies images with the certified model `{card.name}`, version {card.version}. Every "
            "answer carries an `X-Request-ID`; every answer from 400 up is "
            '`{"error": {"code", "message", "request_id"}}`, below `/v2` '
            '`{"error", "code", "request_id"}`. Another address gets 404 `not_found`, another method 405 '
            "`method_not_allowed`, a parameter that is none of its route's 422 `invalid_parameter`, too large headers "
            "431 `headers_too_large`.",
        },
        "servers": [{"url": url or "/"}],
        "paths": _paths(routes, card, url, keys_required),
        "components": {
            "schemas": _schemas(routes),
            "headers": _HEADERS,
            **({"securitySchemes": _SECURITY_SCHEMES} if keys_required else {}),
        },
        **({"security": [{"apiKey": []}, {"bearer": []}]} if keys_required else {}),
    }


def _paths(routes: tuple[Route, ...], card: ModelCard, url: str, keys_required: bool) -> Json:
    paths: Json = {}
    for route in (route for route in routes if route.is_described):
        operation: Json = {
            "tags": [route.tag],
            "operationId": route.name,
            "summary": route.summary,
            "description": route.description,
            "parameters": _parameters(route, card, keys_required),
            "responses": _responses(route, card),
            "x-codeSamples": samples(route, card, url, keys_required and not route.is_open),
        }
        if route.images:
            operation["requestBody"] = {"required": True, "content": _bodies(route, card)}
        if keys_required and route.is_open:  # an empty list overrides the `security` of the whole description
            operation["security"] = []
        paths.setdefault(route.path, {})[route.method] = operation
    return paths


def _parameters(route: Route, card: ModelCard, secret: bool) -> list[Json]:
    # With keys the page is open all the same, and names of classes and of the model can be confidential.
    known: Json = {} if secret else {"class": {"enum": card.classes}, "name": {"enum": [card.name]}}
    parameters = [
        {
            "name": each.name,
            "in": "query",
            "required": False,
            "schema": {**each.schema, **known.get(each.name, {})},
            "description": each.meaning,
        }
        for each in route.parameters
    ]
    for name, schema, meaning, value in (
        ("digest", {"pattern": "^sha256:[0-9a-f]{64}$"}, "The `receipt` of a prediction.", card.receipt),
        ("name", known.get("name", {}), "Name of the model, as `/v1/model` gives it.", card.name),
    ):
        if f"{{{name}}}" in route.path:
            about = {"schema": {"type": "string", **schema}, "description": meaning, "example": value}
            parameters.append({"name": name, "in": "path", "required": True, **about})
    return parameters


def _bodies(route: Route, card: ModelCard) -> Json:
    """Return content type → description of the body."""
    shape = [card.input.height, card.input.width, card.input.channels]
    num_bytes, most = math.prod(shape), card.input.max_batch
    if route.images == "tensors":
        return {JSON_TYPE: {"schema": _inference([1, *shape])}}
    pixels = f"{' x '.join(map(str, shape))} uint8 values, row by row"
    if route.images == "one":
        types = [name for name in card.input.content_types if name.startswith("image/")]
        file = {"description": "The image file."}
        form = _object(image=BINARY | file), _object(image=_BASE64 | file)
        encoding = {"encoding": {"image": {"contentType": ", ".join(types)}}}
        bytes_said = f"{num_bytes:,} bytes: {pixels}."
    else:
        types, encoding = [], {}
        files = _array(BINARY, 1, most) | {"description": "The image files; the name of each field is free."}
        texts = _array(_BASE64, 1, most) | {"description": "The image files."}
        form = _object(images=files), _object(images=texts)
        bytes_said = f"n x {num_bytes:,} bytes: n images of {pixels}; n is at most {most:,}."
    return {
        **{name: {"schema": BINARY} for name in types},
        FORM_TYPE: {"schema": form[0], **encoding},
        JSON_TYPE: {"schema": form[1]},
        TENSOR_TYPE: {"schema": BINARY | {"description": bytes_said, "minLength": num_bytes}},
    }


def _inference(shape: list[int]) -> Json:
    """Return the schema of a request for inference with one image, (1, H, W, C)."""
    size, rank = math.prod(shape), len(shape)
    # Not the whole list as one `const`: generators of clients refuse the document for it.
    sizes = [{"type": "integer", "const": size} for size in shape]
    image = _object(
        name={"type": "string"},
        datatype={"const": "UINT8"},
        shape={"type": "array", "prefixItems": sizes, "minItems": rank, "maxItems": rank},
        data=_array({"type": "integer", "minimum": 0, "maximum": 255}, size, size),
    )
    output = _object(name={"enum": ["probabilities", "class"]})
    inputs = {"type": "array", "minItems": 1, "maxItems": 1, "items": image, "description": "The images."}
    outputs = {"type": "array", "maxItems": 2, "items": output, "description": "The outputs to answer with; none: all."}
    return {
        "type": "object",
        "description": f"One input; here an image as {size:,} numbers, {shape} in one list.",
        "properties": {
            "id": {"type": "string", "description": "Text that the answer repeats."},
            "inputs": inputs,
            "outputs": outputs,
        },
        "required": ["inputs"],
    }


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _array(items: Json, least: int, most: int) -> Json:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _responses(route: Route, card: ModelCard) -> Json:
    content: Json = {}
    for answer in route.answers:
        if isinstance(answer, str):
            content[answer] = {"schema": {"type": "object" if answer == JSON_TYPE else "string"}}
        else:
            content[JSON_TYPE] = {"schema": _reference(answer), "example": example(route, card)}
    responses: Json = {"200": {"description": route.summary, "headers": _headers(200), "content": content}}
    if route.is_tagged:
        responses["304"] = {"description": "Not changed since the `ETag` in `If-None-Match`", "headers": _headers(304)}
    # OpenAPI has one response for each status; several codes of a status are a list in its description, which
    # `serving.description.docs` takes apart again.
    for code, (status, meaning) in ERRORS.items():
        if code not in route.errors:
            continue
        phrase = HTTPStatus(status).phrase
        response = responses.setdefault(str(status), {"description": phrase, "headers": _headers(status)})
        response["description"] += f"\n- `{code}`: {meaning}"
        error = InferenceError if route.is_inference else ErrorAnswer
        response["content"] = {JSON_TYPE: {"schema": _reference(error)}}
    return responses


def _reference(model: type[Answer]) -> Json:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _headers(status: int) -> Json:
    further = {401: ["WWW-Authenticate"], 415: ["Accept-Post"], 429: ["Retry-After"]}
    names = ["X-Request-ID", *further.get(status, [])]
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


class _Untitled(GenerateJsonSchema):
    """Schema generator without a title for each field, which would only repeat its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


@cache
def _schemas(routes: tuple[Route, ...]) -> Json:
    models: set[type[Answer]] = {ErrorAnswer, InferenceError}
    models |= {answer for route in routes for answer in route.answers if not isinstance(answer, str)}
    _, found = models_json_schema(
        # Sorted: a set has another order in each process, and equal servers have equal descriptions.
        [(model, "serialization") for model in sorted(models, key=lambda model: model.__name__)],
        ref_template="#/components/schemas/{model}",
        schema_generator=_Untitled,
    )
    return dict(found["$defs"])


_BASE64: Json = {"type": "string", "contentEncoding": "base64"}
_HEADERS: Json = {
    "X-Request-ID": {
        "description": "The request's own `X-Request-ID`, or one made for it; the server's log has it.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Retry-After": {"description": "Seconds to wait.", "required": True, "schema": {"type": "integer", "minimum": 0}},
    "WWW-Authenticate": {"description": "`Bearer`", "required": True, "schema": {"type": "string"}},
    "Accept-Post": {"description": "The accepted content types.", "required": True, "schema": {"type": "string"}},
}

_SECURITY_SCHEMES: Json = {
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
