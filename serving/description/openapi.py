"""OpenAPI 3.1 description of the service, from the models in `serving.description.schema` and the table of routes."""

from __future__ import annotations

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
    num_bytes = card.input.height * card.input.width * card.input.channels
    pixels = f"{card.input.height} x {card.input.width} x {card.input.channels} uint8 values, row by row"
    if route.images == "one":
        types = [name for name in card.input.content_types if name.startswith("image/")]
        form = _form("image", BINARY | {"description": "The image file."})
        form["encoding"] = {"image": {"contentType": ", ".join(types)}}
        tensor = BINARY | {"description": f"{num_bytes:,} bytes: {pixels}.", "minLength": num_bytes}
        base64 = _form("image", _BASE64 | {"description": "The image file."})
        return {
            **{name: {"schema": BINARY} for name in types},
            FORM_TYPE: form,
            JSON_TYPE: base64,
            TENSOR_TYPE: {"schema": tensor},
        }
    if route.images == "tensors":
        return {JSON_TYPE: {"schema": _inference(card, num_bytes)}}
    many = {"minItems": 1, "maxItems": card.input.max_batch}
    files = {"type": "array", "items": BINARY, **many}
    texts = {"type": "array", "items": _BASE64, **many, "description": "The image files."}
    text = f"n x {num_bytes:,} bytes: n images of {pixels}; n is at most {card.input.max_batch:,}."
    return {
        FORM_TYPE: _form("images", files | {"description": "The image files; the name of each field is free."}),
        JSON_TYPE: _form("images", texts),
        TENSOR_TYPE: {"schema": BINARY | {"description": text, "minLength": num_bytes}},
    }


def _inference(card: ModelCard, num_bytes: int) -> Json:
    """Return the schema of a request for inference with one image."""
    shape = [1, card.input.height, card.input.width, card.input.channels]
    image = {
        "name": {"type": "string"},
        "datatype": {"const": "UINT8"},
        # Not the whole list as one `const`: generators of clients refuse the document for it.
        "shape": {
            "type": "array",
            "prefixItems": [{"type": "integer", "const": size} for size in shape],
            "minItems": len(shape),
            "maxItems": len(shape),
        },
        "data": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": 255},
            "minItems": num_bytes,
            "maxItems": num_bytes,
        },
    }
    output = {"name": {"enum": ["probabilities", "class"]}}
    return {
        "type": "object",
        "description": f"One input; here an image as {num_bytes:,} numbers, {shape} in one list.",
        "properties": {
            "id": {"type": "string", "description": "Text that the answer repeats."},
            "inputs": {
                "type": "array",
                "minItems": 1,
                "maxItems": 1,
                "items": {"type": "object", "properties": image, "required": list(image)},
                "description": "The images.",
            },
            "outputs": {
                "type": "array",
                "maxItems": 2,
                "items": {"type": "object", "properties": output, "required": list(output)},
                "description": "The outputs to answer with; none: all.",
            },
        },
        "required": ["inputs"],
    }


def _form(field: str, schema: Json) -> Json:
    return {"schema": {"type": "object", "properties": {field: schema}, "required": [field]}}


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
    "Retry-After": {
        "description": "Seconds to wait.",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
    },
    "WWW-Authenticate": {"description": "`Bearer`", "required": True, "schema": {"type": "string"}},
    "Accept-Post": {"description": "The accepted content types.", "required": True, "schema": {"type": "string"}},
}

_SECURITY_SCHEMES: Json = {
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
