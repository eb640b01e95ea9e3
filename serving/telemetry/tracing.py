"""OpenTelemetry spans of requests if `OTEL_EXPORTER_OTLP_ENDPOINT` names a collector; otherwise nothing, at no cost.

Everything else is set by OpenTelemetry's own variables (`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, ...).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Scope

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_TIMEOUT = "OTEL_EXPORTER_OTLP_TIMEOUT"


def traced(app: ASGIApp, template: Callable[[str], str]) -> tuple[ASGIApp, Callable[[], None]]:
    """Return the application with a span for each request, and a function that sends the spans that are left.

    `template` gives the template of a path: random paths must not make new names. The spans go to the collector in
    batches, from a thread; an outage loses only spans.
    """
    if not os.environ.get(ENDPOINT):
        return app, lambda: None
    # Imported only if spans are wanted: the modules cost nothing otherwise.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    from opentelemetry.metrics import NoOpMeterProvider
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    os.environ.setdefault("OTEL_SERVICE_NAME", "gapgate")
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")  # the stable names, `http.request.method` and others
    provider = TracerProvider()
    # OpenTelemetry's default is 10 s, for which the end of a server would wait if the collector is away.
    exporter = OTLPSpanExporter(timeout=None if os.environ.get(_TIMEOUT) else 2)
    provider.add_span_processor(BatchSpanProcessor(exporter))

    def details(scope: Scope) -> tuple[str, dict[str, Any]]:
        route = template(scope["path"])
        return f"{scope['method']} {route}", {"http.route": route}

    behind = OpenTelemetryMiddleware(
        app,
        default_span_details=details,
        tracer_provider=provider,
        meter_provider=NoOpMeterProvider(),
        http_capture_headers_server_response=["x-request-id"],
        exclude_spans=["receive", "send"],
    )
    return behind, provider.shutdown
