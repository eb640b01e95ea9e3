"""OpenTelemetry spans of requests, where `OTEL_EXPORTER_OTLP_ENDPOINT` names a collector; else nothing, at no cost.

The rest is set by OpenTelemetry's own variables (`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, ...).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from serving.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_TIMEOUT = "OTEL_EXPORTER_OTLP_TIMEOUT"
SetStatus = Callable[[int], None]
"""Notes the HTTP status of the answer in its span."""


class Tracing:
    """No spans."""

    def span(self, request: Request, route: str) -> AbstractContextManager[SetStatus]:
        """A span around one request; `route` is the template of its path."""
        return _NO_SPAN

    def stop(self) -> None:
        """Send what is left."""


_NO_SPAN: AbstractContextManager[SetStatus] = nullcontext(lambda status: None)


class OtlpTracing(Tracing):
    """Spans go to the collector over HTTP, in batches, from a thread; one that is away costs nothing but its spans."""

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        os.environ.setdefault("OTEL_SERVICE_NAME", "gapgate")
        self._provider = TracerProvider()
        exporter = OTLPSpanExporter(timeout=None if os.environ.get(_TIMEOUT) else 2)  # else ending may wait 10 s
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
                if status >= 500:
                    span.set_status(StatusCode.ERROR)

            yield set_status

    def stop(self) -> None:
        self._provider.shutdown()


def from_environment() -> Tracing:
    """The tracing that the environment asks for."""
    return OtlpTracing() if os.environ.get(ENDPOINT) else Tracing()
