"""The REST interface: an ASGI application that answers the routes of `serving.http.routes`.

Every answer carries `X-Request-ID`, and every answer with a status from 400 up is an `ErrorAnswer`; the one exception
are CORS preflights that Starlette refuses. There is no web framework: routes are a table and responses are written
here, because Starlette's routing and its two middlewares took a third of the time of a 28 px image in the network.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
import time
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.description.route import INFERENCE, Route
from serving.guard.memory import Memory
from serving.http.access import authorize
from serving.http.endpoints import Context
from serving.http.request import PICKLE_TYPE, ClientGoneError, Request
from serving.http.responses import JSON_TYPE, ApiError, Response, error_response
from serving.http.routes import ROUTES
from serving.http.work import Work
from serving.model.models import Models
from serving.options import Options
from serving.telemetry.metrics import UNMATCHED, Metrics
from serving.telemetry.tracing import traced

logger = logging.getLogger("gapgate.serving")

CLIENT_GONE = 499
"""Status, in metrics and log, of a request whose client closed the connection; the number that nginx uses."""
LINGER_S = 2.0
"""Seconds for which the rest of a refused request is received and thrown away, so that the client gets the reason."""


_BY_PATH = {route.path: route for route in ROUTES}
_PATTERNS = [
    (re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)), route) for path, route in _BY_PATH.items() if "{" in path
]
"""Paths with parameters, a group for each."""


class App:
    """The application of one worker process; whoever runs it calls `start` and `stop`."""

    def __init__(self, options: Options, package: Path, memory: Memory) -> None:
        """Make the parts of the application; `package` is the folder of the Bento's own model, `memory` that of all
        workers."""
        self.options = options
        models = Models(options, package)
        figures = Metrics(models)
        self.context = Context(models, Work(options, figures.in_progress, memory), figures, ROUTES)
        self.send_spans: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Load the model, or begin to follow it."""
        self.context.models.start()

    def stop(self) -> None:
        """Stop the model's watcher, the threads and the tracing."""
        self.context.models.stop()
        self.context.work.close()
        self.send_spans()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve(Request(scope, receive, self.options, self.context.work), scope, send)
        elif scope["type"] == "websocket":
            # 1008 is a violation of the server's policy (RFC 6455, 7.4.1).
            await send({"type": "websocket.close", "code": 1008})

    async def _serve(self, request: Request, scope: Scope, send: Send) -> None:
        begun = time.perf_counter()
        self.context.work.last_request = begun
        below_root = _below(request.path, self.options.root_path)
        if below_root is None:
            # 308 is permanent and keeps the method (RFC 9110, 15.4.9).
            moved = Response(b"", 308, headers={"Location": f"{self.options.root_path}/"})
            return await _write(send, moved, request, close=self.context.work.draining)
        request.path = below_root
        route, request.path_parameters = _match(request.path)
        template = route.path if route else UNMATCHED
        try:
            response = await self._respond(request, route)
        except ClientGoneError:  # nothing to send, but the request is counted
            return self._count(request, template, CLIENT_GONE, 0, begun)
        except Exception as error:
            if not isinstance(error, ApiError):
                logger.error("request %s failed", request.id, exc_info=error, extra={"request_id": request.id})
                # The answer tells nothing of the error: its text could show data or paths of the server.
                error = ApiError("internal", "the server failed; its log has the request id")
            request.notes["error"] = error.code
            response = error_response(error, request.id, inference=request.path.startswith(INFERENCE))
        await _write(send, response, request, close=self.context.work.draining)
        self._count(request, template, response.status, len(response.body), begun)

    async def _respond(self, request: Request, route: Route | None) -> Response:
        if route is None:
            message = f"there is no {request.path[:100]}; /docs lists the routes"
            raise ApiError("not_found", message)
        if request.method not in route.methods:
            allowed = ", ".join(route.methods)
            message = f"{request.method} is not allowed on {request.path[:100]}; use {allowed}"
            raise ApiError("method_not_allowed", message, {"Allow": allowed})
        if not route.is_open:
            authorize(request)
            request.check_names(route.parameters)
        response = await route.respond(self.context, request)
        if request.content_type == PICKLE_TYPE and response.content_type == JSON_TYPE:
            body = pickle.dumps(json.loads(response.body))  # another service of a Bento reads what it sends
            response = replace(response, body=body, content_type=PICKLE_TYPE)
        return response

    def _count(self, request: Request, template: str, status: int, sent: int, begun: float) -> None:
        seconds = time.perf_counter() - begun
        self.context.metrics.answered(template, status, seconds)
        if self.options.access_log:
            extra = {
                "client": request.client_host,
                "forwarded_for": request.header("x-forwarded-for")[:200],
                "request_id": request.id,
                "status": status,
                "received_bytes": request.received,
                "sent_bytes": sent,
                "milliseconds": round(1e3 * seconds, 2),
                **request.notes,
            }
            # Quoted, because a path may hold a line feed.
            logger.info("%s %s", request.method, quote(request.path), extra={k: v for k, v in extra.items() if v != ""})

    def count_refused(self, client_host: str, request_id: str, error: ApiError) -> None:
        """Count what was refused before it became a request: bytes that are not HTTP, or headers over the limit."""
        self.context.metrics.answered(UNMATCHED, error.status, 0.0)
        if self.options.access_log:
            extra = {"client": client_host, "request_id": request_id, "status": error.status, "error": error.code}
            logger.info("refused before its path was read", extra=extra)


def create_app(options: Options, package: Path, memory: Memory | None = None) -> tuple[App, ASGIApp]:
    """Return the application and the callable for an ASGI server.

    Both are the same, unless requests are traced or pages of other origins may call it: then OpenTelemetry's and
    Starlette's CORS middleware are around it.
    """
    app = App(options, package, memory or Memory())

    def template(path: str) -> str:
        # Never the path itself: random paths must not make new series.
        route, _ = _match(_below(path, options.root_path) or path)
        return route.path if route else UNMATCHED

    called, app.send_spans = traced(app, template)
    if not options.cors_origins:
        return app, called
    # Outermost: it answers preflights itself, and they are no requests to trace.
    behind = CORSMiddleware(
        called,
        allow_origins=options.cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-ID"],
        expose_headers=["X-Request-ID", "Retry-After"],
    )
    return app, behind


def _below(path: str, root: str) -> str | None:
    """Return a path without the prefix `root`, which a proxy may have taken off; None for the prefix itself, whose page
    would look for its files one folder too high."""
    if root and path == root:
        return None
    return path[len(root) :] if root and path.startswith(root + "/") else path


def _match(path: str) -> tuple[Route | None, dict[str, str]]:
    """Return the route of a path, None for an unknown one, and the parameters in it by their names."""
    if route := _BY_PATH.get(path):
        return route, {}
    for pattern, route in _PATTERNS:
        if found := pattern.fullmatch(path):
            return route, found.groupdict()
    return None, {}


async def _write(send: Send, response: Response, request: Request, *, close: bool) -> None:
    headers = [
        (b"content-type", response.content_type.encode()),
        (b"x-request-id", request.id.encode()),
    ]
    # A length in a 304 would have to be that of the content which it leaves out (RFC 9110, 8.6).
    if response.status != HTTPStatus.NOT_MODIFIED:
        headers.append((b"content-length", str(len(response.body)).encode()))
    headers += [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in response.headers.items()]
    # The next request of a connection comes after the body of this one. Nobody reads that, so the connection closes.
    unread = request.has_unread_body
    if close or unread:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    if unread:
        # The whole answer goes out first, with its length. The empty end lets uvicorn close only after `drain`.
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        await request.drain(LINGER_S)
        await send({"type": "http.response.body", "body": b""})
    else:
        await send({"type": "http.response.body", "body": response.body})
