"""Handlers of the routes for whoever watches over the server: is it alive, is it ready, what are its figures."""

from __future__ import annotations

from serving.description.schema import Health
from serving.http.endpoints import Context
from serving.http.request import Request
from serving.http.responses import ApiError, Response, json_response
from serving.telemetry.metrics import CONTENT_TYPE


async def live(context: Context, request: Request) -> Response:
    """Answer `GET /livez`: the process answers."""
    return json_response(Health(status="live"))


async def ready(context: Context, request: Request) -> Response:
    """Answer `GET /readyz`: the model passed its checks, and the server is not ending."""
    require_ready(context)
    return json_response(Health(status="ready"))


async def metrics(context: Context, request: Request) -> Response:
    """Answer `GET /metrics`."""
    return Response(context.metrics.text(), content_type=CONTENT_TYPE)


def require_ready(context: Context) -> None:
    """Return if the server is ready.

    Raises:
        ApiError: 503, there is no model, or the server is ending.
    """
    if context.work.draining:
        raise ApiError("not_ready", "the server is ending")
    context.models.require()
