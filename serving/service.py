"""The Bento's service: `serving.http.app` under BentoML's own server, for `bentoml serve`, BentoCloud and other tools
of BentoML.

The routes that take images are declared to BentoML, so that its clients, `bentoml.depends` and its description of the
Bento know them; all requests are answered by `serving.http.app`. BentoML's own answers were measured: status 500 for
492 of 500 damaged forms, and 922 MB of memory for 300 MB of JSON. It also asks for no key, and fetches whatever URL
comes in place of a file.

`python -m serving` runs the same application without BentoML, whose layers take a fifth of the time of a small request
and whose timeout keeps a timer for a minute after each request.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import bentoml
import httpx
from bentoml.exceptions import BentoMLException
from bentoml.validators import ContentType
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.description.bentoml_schema import DESCRIPTION, declared, method_name
from serving.description.route import Route
from serving.http.app import create_app
from serving.http.routes import ROUTES
from serving.options import Options
from serving.telemetry.privacy import QUIET

PACKAGE = Path(__file__).parents[1] / "model"
ImageFile = Annotated[Path, ContentType("image/*")]


class _InProcess:
    """The methods of the service where it runs without a server, as an object in the caller's own process."""

    @cached_property
    def _app(self) -> ASGIApp:
        # Without keys: they are for those who come over a network.
        options = Options.from_environment().model_copy(update={"api_keys": ()})
        app, called = create_app(options, PACKAGE)
        app.start()
        return called

    async def _ask(self, path: str, field: str, files: Sequence[Path]) -> dict[str, Any]:
        form = [(field, (file.name, file.read_bytes())) for file in files]
        transport = httpx.ASGITransport(self._app)
        # The application has timeouts of its own.
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=None) as client:
            answer = await client.post(path, files=form)
        if answer.is_error:
            raise BentoMLException(answer.text, error_code=HTTPStatus(answer.status_code))
        content: dict[str, Any] = answer.json()
        return content


def _method(route: Route) -> Any:
    """Return a method of the service class, as `@bentoml.api` declares one."""

    async def of_one(self: _InProcess, image: ImageFile) -> dict[str, Any]:
        return await self._ask(route.path, "image", [image])

    async def of_many(self: _InProcess, images: list[ImageFile]) -> dict[str, Any]:
        return await self._ask(route.path, "images", images)

    method = of_one if route.images == "one" else of_many
    method.__name__ = method_name(route)
    method.__doc__ = f"{route.summary}. {route.description}"
    return bentoml.api(method, route=route.path)


_METHODS = {method_name(route): _method(route) for route in declared(ROUTES)}

# OpenTelemetry's middleware costs CPU in each request even without an exporter, unless every URL is excluded. BentoML's
# metrics take any requested path as a label, without bound. Its timeout is a second line behind our own.
GapgateService = bentoml.service(
    name="gapgate",
    workers=1,
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
    envs=[{"name": name, "value": value} for name, value in QUIET.items()],
    tracing={"excluded_urls": ".*"},
)(type("GapgateService", (_InProcess,), {"__doc__": DESCRIPTION, **_METHODS}))


class EveryRoute:
    """Middleware that answers all HTTP requests with `serving.http.app`; BentoML has the lifespan."""

    def __init__(self, app: ASGIApp) -> None:
        self._bentoml = app
        self._app, self._called = create_app(Options.from_environment(), PACKAGE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return await self._called(scope, receive, send)

        # Both have a lifespan, but a server sends one: BentoML answers it, and ours follows its answers.
        async def starting(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._app.start()
            elif message["type"] == "lifespan.shutdown.complete":
                self._app.stop()
            await send(message)

        await self._bentoml(scope, receive, starting)


GapgateService.add_asgi_middleware(EveryRoute)
