"""OpenTelemetry spans of requests if `OTEL_EXPORTER_OTLP_ENDPOINT` names a collector; otherwise nothing, at no cost.

Everything else is set by OpenTelemetry's own variables (`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, ...).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from serving.http.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_TIMEOUT = "OTEL_EXPORTER_OTLP_TIMEOUT"
SetStatus = Callable[[int], None]
"""Function that stores the HTTP status of the answer in its span."""


class Tracing:
    """Tracing without spans, and the interface of the one with spans."""

    def span(self, request: Request, route: str) -> AbstractContextManager[SetStatus]:
        """Return a context manager for the span of one request; `route` is the template of its path."""
        return _NO_SPAN

    def stop(self) -> None:
        """Send the spans that are left."""


_NO_SPAN: AbstractContextManager[SetStatus] = nullcontext(lambda status: None)


class OtlpTracing(Tracing):
    """Tracing that sends spans to a collector over HTTP, in batches, from a thread; an outage loses only spans."""

    def __init__(self) -> None:
        # Imported only if spans are wanted: the module costs nothing otherwise.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        os.environ.setdefault("OTEL_SERVICE_NAME", "gapgate")
        self._provider = TracerProvider()
        # OpenTelemetry's default is 10 s, for which the end of a server would wait if the collector is away.
        exporter = OTLPSpanExporter(timeout=None if os.environ.get(_TIMEOUT) else 2)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("gapgate.serving")

    @contextmanager
    def span(self, request: Request, route: str) -> Iterator[SetStatus]:
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, StatusCode

        parent = extract({"traceparent": request.header("traceparent"), "tracestate": request.header("tracestate")})
        attributes = {"http.request.method": request.method, "http.route": route, "gapgate.request_id": request.id}
        name = f"{request.method} {route}"
        with self._tracer.start_as_current_span(name, parent, SpanKind.SERVER, attributes) as span:

            def set_status(status: int) -> None:
                span.set_attribute("http.response.status_code", status)
                if status >= 500:  # for a server span a status of 4xx is no error (OpenTelemetry's HTTP conventions)
                    span.set_status(StatusCode.ERROR)

            yield set_status

    def stop(self) -> None:
        self._provider.shutdown()


def from_environment() -> Tracing:
    """Return the tracing that the environment variables ask for."""
    return OtlpTracing() if os.environ.get(ENDPOINT) else Tracing()
