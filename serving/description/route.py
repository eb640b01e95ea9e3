"""A route of the service: how to answer it and what to say of it. Each stands before its handler; the application,
OpenAPI and the declaration for BentoML are all made from these, in the order of `serving.http.routes`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from inspect import getdoc
from typing import Any

from serving.description.schema import Answer
from serving.http.responses import Response

INFERENCE = "/v2"
"""Begin of the paths of the Open Inference Protocol."""
MODEL_ERRORS = ("starting", "refused")
"""Errors of a route that needs the model."""
READY_ERRORS = (*MODEL_ERRORS, "not_ready")
_IMAGE_ERRORS = (
    "wrong_shape", "missing_image", "bad_request", "body_too_large", "too_many_images", "invalid_parameter",
    "overloaded", "upload_timeout", "timeout", *MODEL_ERRORS,
)  # fmt: skip
_ERRORS_OF: Mapping[str, tuple[str, ...]] = {
    "": (),
    "one": (*_IMAGE_ERRORS, "invalid_image", "unsupported_media_type"),
    "many": (*_IMAGE_ERRORS, "unsupported_media_type"),
    "tensors": (*_IMAGE_ERRORS, "invalid_image"),
}
"""Images in the body → the errors that come with them."""
Handler = Callable[[Any, Any], Awaitable[Response]]
"""Function from a `serving.http.endpoints.Context` and a `serving.http.request.Request` to the response."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter, which may be left out."""

    name: str
    meaning: str
    schema: Mapping[str, Any]
    """JSON schema of its value: a string, a boolean, or an integer from 1 to a maximum; with the default, if any."""


# `eq=False`: a route is itself alone, and so a key of a cache.
@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A route; one that answers GET answers HEAD too."""

    respond: Handler
    method: str
    path: str
    name: str
    """Name of the route, its `operationId` in OpenAPI."""
    summary: str
    description: str
    answers: tuple[type[Answer] | str, ...]
    """Forms of an answer with status 200: a model, sent as JSON, or the content type of anything else."""
    own_errors: tuple[str, ...] = ()
    """Codes in `serving.http.responses.ERRORS` of the errors that come neither with the images nor to every route."""
    parameters: tuple[Parameter, ...] = ()
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
        return (*self.own_errors, *_ERRORS_OF[self.images], *of_access, "internal")

    @property
    def methods(self) -> tuple[str, ...]:
        return ("GET", "HEAD") if self.method == "get" else ("POST",)


def route(
    method: str, path: str, name: str, *answers: type[Answer] | str, summary: str = "", **more: Any
) -> Callable[[Handler], Route]:
    """Make a `Route` of the handler below. The first paragraph of its docstring is the summary, unless one is given,
    and the rest is the description."""

    def made(respond: Handler) -> Route:
        first, _, rest = (getdoc(respond) or "").partition("\n\n")
        said = summary or first.removesuffix(".")
        return Route(respond, method, path, name, said, " ".join(rest.split()), answers, **more)

    return made
