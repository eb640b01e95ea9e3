"""The Bento's service: `serving.http.app` under BentoML's own server, for `bentoml serve`, BentoCloud and other tools
of BentoML.

`python -m serving` runs the same application without BentoML, whose layers take a fifth of the time of a small request
and whose timeout keeps a timer for a minute after each request.
"""

from __future__ import annotations

from pathlib import Path

import bentoml
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http.app import create_app
from serving.options import Options
from serving.telemetry.privacy import QUIET

PACKAGE = Path(__file__).parents[1] / "model"


# OpenTelemetry's middleware costs CPU in each request even without an exporter, unless every URL is excluded. BentoML's
# metrics take any requested path as a label, without bound. Its timeout is a second line behind our own.
@bentoml.service(
    name="gapgate",
    workers=1,
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
    envs=[{"name": name, "value": value} for name, value in QUIET.items()],
    tracing={"excluded_urls": ".*"},
)
class GapgateService:
    """Service that classifies images with a certified model."""


class EveryRoute:
    """Middleware that answers all HTTP requests with `serving.http.app`: BentoML's own routes would answer `/readyz`
    without a reason, and unknown paths in plain text."""

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


GapgateService.add_asgi_middleware(EveryRoute)  # type: ignore[attr-defined]  # the decorator made it a Service
