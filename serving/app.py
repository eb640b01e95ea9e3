"""The REST interface: an ASGI application that BentoML mounts at `/`.

    POST /v1/predict    an image as the body, or as the field `image` of a form → `Prediction`

Every answer carries `X-Request-ID`, and every answer from 400 up is an `ErrorAnswer`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gapgate.errors import ImageError
from serving.schema import Answer, ErrorAnswer, Problem

if TYPE_CHECKING:
    from serving.predictor import Predictor

logger = logging.getLogger("gapgate.serving")

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp")
FORM_TYPE = "multipart/form-data"
TOP_K = 5
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may cost."""

    max_body_bytes: int = 10 * 2**20
    """Largest request body."""
    inline_pixels: int = 256 * 256
    """Largest image that is answered on the event loop, which it holds for about 1 ms; larger ones go to a thread. A
    28 px image took 0.68 ms (99th percentile 2.0) on the loop and 0.81 ms (7.2) by a thread, which waits for the GIL.
    """
    decode_threads: int = min(4, os.cpu_count() or 1)
    """Threads, and so the number of large images in memory at once."""
    timeout_s: float = 30.0
    """Longest time from a request's headers to its answer."""


class ApiError(HTTPException):
    """An answer from 400 up, with the word that a program can tell it by."""

    def __init__(self, status_code: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status_code, message, headers)
        self.code = code


def create_app(limits: Limits | None = None) -> Starlette:
    """The application. Its `state.predictor` has to be set before it is called."""
    limits = limits or Limits()
    app = Starlette(
        routes=[Route("/v1/predict", predict, methods=["POST"])],
        middleware=[Middleware(RequestScope, limits=limits)],
        exception_handlers={HTTPException: _answer_error},
    )
    app.router.redirect_slashes = False
    app.state.limits = limits
    app.state.threads = ThreadPoolExecutor(limits.decode_threads, thread_name_prefix="decode")
    return app


async def predict(request: Request) -> Response:
    """`POST /v1/predict`"""
    data = await read_image(request)
    predictor: Predictor = request.app.state.predictor
    limits: Limits = request.app.state.limits

    arguments = (data, request.state.request_id, TOP_K)
    try:
        if predictor.num_pixels(data) <= limits.inline_pixels:
            return _json(predictor.predict(*arguments))
        loop = asyncio.get_running_loop()
        return _json(await loop.run_in_executor(request.app.state.threads, predictor.predict, *arguments))
    except ImageError as error:
        raise ApiError(400, "invalid_image", str(error)) from None


async def read_image(request: Request) -> bytes:
    """The image file in a request: its body, the form's field `image`, or the form's first file.

    Raises:
        ApiError: 415 for another content type, 400 where there is no file, 413 from `RequestScope`.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == FORM_TYPE:
        data = await _read_form(request)
    elif content_type in IMAGE_TYPES:
        data = await request.body()
    else:
        accepted = ", ".join((*IMAGE_TYPES, FORM_TYPE))
        message = f"content type {content_type or 'missing'} is not accepted; send one of {accepted}"
        raise ApiError(415, "unsupported_media_type", message, {"Accept-Post": accepted})
    if not data:
        raise ApiError(400, "missing_image", "the request holds no image; send it as the body or as the field `image`")
    return data


async def _read_form(request: Request) -> bytes:
    async with request.form(max_files=8, max_fields=64) as form:
        files = {name: value for name, value in reversed(form.multi_items()) if isinstance(value, UploadFile)}
        first = next(reversed(files.values()), None)
        chosen = files.get("image", first)
        return await chosen.read() if chosen else b""


class RequestScope:
    """Gives each request an id and limits on its body and time, and turns any exception into an answer.

    The last is needed under BentoML: an exception that leaves the application before a response has started makes the
    client of its timeout middleware wait for the whole timeout.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app = app
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            async with asyncio.timeout(self.limits.timeout_s):
                await self.app(scope, self._limited(receive, headers), send_with_id)
        except Exception as error:
            if started:
                raise
            answer = self._answer(error, request_id)
            await answer(scope, receive, send_with_id)

    def _answer(self, error: Exception, request_id: str) -> Response:
        if isinstance(error, TimeoutError):
            message = f"no answer within {self.limits.timeout_s:g} s; send a smaller image, or try again later"
            return _error(504, "timeout", message, request_id, _CLOSE)
        logger.error("request %s failed", request_id, exc_info=error)
        return _error(500, "internal", "the server failed; its log has the request id", request_id)

    def _limited(self, receive: Receive, headers: Headers) -> Receive:
        """`receive`, which raises once the body is known to be too large: at once where its length is announced."""
        limit = self.limits.max_body_bytes
        announced = headers.get("content-length", "")
        size = int(announced) if announced.isdecimal() else 0
        received = 0

        async def limited() -> Message:
            nonlocal received
            if size <= limit:
                message = await receive()
                received += len(message.get("body", b""))
                if received <= limit:
                    return message
            raise ApiError(413, "body_too_large", f"the body exceeds {limit:,} bytes; send a smaller image", _CLOSE)

        return limited


_CLOSE = {"Connection": "close"}


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = error.code if isinstance(error, ApiError) else _CODES.get(error.status_code, "error")
    message = error.detail if isinstance(error, ApiError) else _explain(request, error)
    return _error(error.status_code, code, message, request.state.request_id, error.headers)


def _explain(request: Request, error: HTTPException) -> str:
    if error.status_code == 404:
        return f"there is no {request.url.path}; POST an image to /v1/predict"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "POST")
        return f"{request.method} is not allowed on {request.url.path}; use {allowed}"
    return error.detail


def _error(
    status_code: int, code: str, message: str, request_id: str, headers: Mapping[str, str] | None = None
) -> Response:
    problem = Problem(code=code, message=message, request_id=request_id)
    return _json(ErrorAnswer(error=problem), status_code, headers)


def _json(answer: Answer, status_code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = answer.model_dump_json(by_alias=True)
    return Response(body, status_code, headers, media_type="application/json")
