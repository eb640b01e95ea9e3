"""A route of the service: how to answer it and what to say of it. The application, OpenAPI and the declaration for
BentoML are all made from one table of these, `serving.http.routes`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from serving.description.schema import Answer
from serving.http.responses import Response

INFERENCE = "/v2"
"""Begin of the paths of the Open Inference Protocol."""


# `eq=False`: a route is itself alone, and so a key of a cache.
@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A route; one that answers GET answers HEAD too."""

    respond: Callable[[Any, Any], Awaitable[Response]]
    """Handler: from a `serving.http.endpoints.Context` and a `serving.http.request.Request` to the response."""
    method: str
    path: str
    name: str
    """Name of the route, its `operationId` in OpenAPI."""
    summary: str
    description: str
    answers: Mapping[str, type[Answer] | None]
    """Content type of an answer with status 200 → its model; None if it has none."""
    own_errors: tuple[str, ...] = ()
    """Codes in `serving.http.responses.ERRORS` of the errors that not every route can answer with."""
    numbers: tuple[tuple[str, int, int, str], ...] = ()
    """Integer query parameters, from 1 to a limit: (name, limit, default, meaning)."""
    further_parameters: tuple[str, ...] = ()
    """Names of the other query parameters."""
    images: str = ""
    """Images that the body holds: `one`, `many`, `tensors` of the Open Inference Protocol, or none if empty."""
    is_open: bool = False
    """True if it answers without a key."""
    is_tagged: bool = False
    """True if it answers 304 when the entity tag in `If-None-Match` is still valid."""
    is_described: bool = True
    """True if OpenAPI describes it; parts of the pages are left out."""

    @property
    def is_inference(self) -> bool:
        """True if it is one of the Open Inference Protocol, whose errors have another form."""
        return self.path.startswith(INFERENCE)

    @property
    def tag(self) -> str:
        """Group of routes that it belongs to, in OpenAPI: a module of a generated client."""
        if self.is_inference:
            return "inference"
        if self.images:
            return "images"
        return "server" if self.is_open else "model"

    @property
    def errors(self) -> tuple[str, ...]:
        """Codes of all errors that it can answer with."""
        of_access = () if self.is_open else ("unauthorized", "loopback_only")
        return (*self.own_errors, *of_access, "internal")

    @property
    def methods(self) -> tuple[str, ...]:
        return ("GET", "HEAD") if self.method == "get" else ("POST",)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all query parameters."""
        return (*(name for name, *_ in self.numbers), *self.further_parameters)
