"""What goes back over HTTP: content, or an error in its one form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from serving.schema import ErrorAnswer, Problem

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Response:
    """One whole HTTP response."""

    body: bytes
    status: int = HTTPStatus.OK
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


class ApiError(Exception):
    """An answer from 400 up."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        """`code` is a stable word for programs, `message` one line for people: the value, the limit, the remedy."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}

    def problem(self, request_id: str) -> Problem:
        """As the JSON that tells it."""
        return Problem(code=self.code, message=self.message, request_id=request_id)


def json_response(content: BaseModel | Mapping[str, Any]) -> Response:
    """A model, or what already has the names of one, as JSON."""
    return Response(to_json(content, by_alias=True, exclude_none=True) + b"\n")


def error_response(error: ApiError, request_id: str) -> Response:
    """An error as JSON."""
    body = ErrorAnswer(error=error.problem(request_id)).model_dump_json().encode() + b"\n"
    return Response(body, error.status, headers=error.headers)
