"""HTTP responses: content, or an error as an `ErrorAnswer`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from serving.description.inference_schema import InferenceError
from serving.description.schema import Answer, ErrorAnswer, Problem

JSON_TYPE = "application/json"
ERRORS: dict[str, tuple[int, str]] = {
    "invalid_image": (400, "Not an image, a damaged one, or one of too many pixels."),
    "wrong_shape": (400, "A raw tensor of another number of bytes than whole images have."),
    "missing_image": (400, "No image in the request."),
    "bad_request": (400, "A form that cannot be parsed, or that holds several images where one is asked for."),
    "unauthorized": (401, "No key, or one that is not known."),
    "loopback_only": (403, "No key is configured, so only the server's own machine is answered."),
    "not_found": (404, "There is nothing under this address."),
    "no_index": (404, "The package holds no training images to compare with."),
    "method_not_allowed": (405, "Another method than those of the route, which `Allow` lists."),
    "upload_timeout": (408, "The body did not arrive in time."),
    "body_too_large": (413, "The body exceeds the limit."),
    "too_many_images": (413, "More images than one request may hold."),
    "unsupported_media_type": (415, "Another content type than the accepted ones, which `Accept-Post` lists."),
    "invalid_parameter": (422, "A parameter out of its range or set."),
    "overloaded": (429, "As many requests as the server takes are under way; try again after `Retry-After` seconds."),
    "headers_too_large": (431, "More bytes of headers than the server takes."),
    "internal": (500, "The server failed; its log has the request id."),
    "starting": (503, "The model is being loaded."),
    "refused": (503, "The package did not prove itself; the message says why."),
    "not_ready": (503, "The server is ending."),
    "timeout": (504, "No answer was found in time."),
}
"""Code → HTTP status and meaning."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole HTTP response."""

    body: bytes
    status: int = HTTPStatus.OK
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)


class ApiError(Exception):
    """Error that becomes an answer with a status from 400 up."""

    def __init__(self, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        """Keep the parts of an answer: `code` is one of `ERRORS`, `message` a line for people that gives the value, the
        limit and the remedy."""
        super().__init__(message)
        self.status = ERRORS[code][0]
        self.code = code
        self.message = message
        self.headers = headers or {}

    def problem(self, request_id: str) -> Problem:
        """Return the error as the model for its JSON."""
        return Problem(code=self.code, message=self.message, request_id=request_id)


def json_response(content: BaseModel | Mapping[str, Any]) -> Response:
    """Return a JSON response; `content` is a model, or a mapping with the field names of the JSON."""
    return Response(to_json(content, by_alias=True, exclude_none=True) + b"\n")


def error_response(error: ApiError, request_id: str, *, inference: bool = False) -> Response:
    """Return a JSON response for an error, with `inference` in the form of the Open Inference Protocol."""
    if inference:
        answer: Answer = InferenceError(error=error.message, code=error.code, request_id=request_id)
    else:
        answer = ErrorAnswer(error=error.problem(request_id))
    return Response(answer.model_dump_json().encode() + b"\n", error.status, headers=error.headers)
