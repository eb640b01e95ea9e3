"""HTTP responses: content, or an error as an `ErrorAnswer`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from serving.description.inference_schema import InferenceError
from serving.description.schema import ErrorAnswer, Problem

JSON_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class Response:
    """A whole HTTP response."""

    body: bytes
    status: int = HTTPStatus.OK
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)


class ApiError(Exception):
    """Error that becomes an answer with a status from 400 up."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        """Keep the parts of an answer: `code` is a stable word for programs, `message` a line for people that gives the
        value, the limit and the remedy."""
        super().__init__(message)
        self.status = status
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
    problem = error.problem(request_id)
    answer = InferenceError.of(problem) if inference else ErrorAnswer(error=problem)
    return Response(answer.model_dump_json().encode() + b"\n", error.status, headers=error.headers)
