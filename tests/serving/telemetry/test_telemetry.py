"""What a server tells of itself: OpenTelemetry spans to a collector, and its log."""

from __future__ import annotations

import gzip
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gapgate.artifacts import Artifact
from serving.run import serve
from tests.serving.packaged import picture
from tests.waiting import wait_for

PNG = {"content-type": "image/png"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP/HTTP receiver: its address, and the spans that it got."""
    spans: list[Any] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            body = gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as receiver:
        thread = threading.Thread(target=receiver.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{receiver.server_port}", spans
        receiver.shutdown()
        thread.join()


def attributes(span: Any) -> dict[str, Any]:
    return {
        pair.key: pair.value.int_value
        if pair.value.HasField("int_value")
        else [each.string_value for each in pair.value.array_value.values] or pair.value.string_value
        for pair in span.attributes
    }


def test_each_request_is_a_span_that_continues_the_callers_trace(
    bento: Artifact, tmp_path: Path, collector: tuple[str, list[Any]]
) -> None:
    address, spans = collector
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with serve(bento.path / "model.bento", work_dir=tmp_path, environment=environment) as server:
        server.wait_ready()
        predict = f"{server.url}/v1/predict"
        traced = {**PNG, "traceparent": f"00-{TRACE}-{PARENT}-01"}
        answer = httpx.post(predict, content=picture(16, 16), headers=traced).json()
        httpx.post(predict, content=b"x", headers=PNG)
        httpx.get(f"{server.url}/v1/receipts/none")
        wait_for(lambda: len([span for span in spans if "/v1/" in span.name]) >= 3)
    asked = [span for span in spans if "/v1/" in span.name]
    assert [span.name for span in asked] == ["POST /v1/predict", "POST /v1/predict", "GET /v1/receipts/{digest}"]
    assert [attributes(span)["http.response.status_code"] for span in asked] == [200, 400, 404]
    assert asked[0].trace_id.hex() == TRACE
    assert asked[0].parent_span_id.hex() == PARENT
    assert attributes(asked[0])["http.response.header.x_request_id"] == [answer["request_id"]]
    assert attributes(asked[0])["http.route"] == "/v1/predict"


def test_a_collector_that_is_away_costs_no_answer(bento: Artifact, tmp_path: Path) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with serve(bento.path / "model.bento", work_dir=tmp_path, environment=environment) as server:
        server.wait_ready()
        for _ in range(5):
            assert httpx.post(f"{server.url}/v1/predict", content=picture(16, 16), headers=PNG).status_code == 200
            time.sleep(0.1)


def test_the_log_is_a_line_of_json_an_event(bento: Artifact, tmp_path: Path) -> None:
    environment = {"GAPGATE_ACCESS_LOG": "true", "GAPGATE_FORMATS": "+tiff", "GAPGATE_WORKER": "2"}
    damaged = bytearray(picture(200, 900, "TIFF"))  # libtiff writes a line for each row of some
    for place in range(100, len(damaged) - 400, 5):
        damaged[place] ^= 0x55
    with serve(bento.path / "model.bento", work_dir=tmp_path, environment=environment) as server:
        server.wait_ready()
        predict = f"{server.url}/v1/predict"
        httpx.post(predict, content=b"x", headers={**PNG, "x-request-id": "r-1"})
        httpx.post(predict, content=bytes(damaged), headers={"content-type": "image/tiff"})
        image = picture(16, 16)
        answer = httpx.post(predict, content=image, headers={**PNG, "x-request-id": "r-2"})
        with socket.create_connection(("127.0.0.1", urlsplit(server.url).port or 0)) as raw:
            raw.sendall(b"no HTTP\r\n\r\n")
            assert b"400 Bad Request" in raw.recv(1000)
        counted = httpx.get(f"{server.url}/metrics").text
        process = psutil.Process(server.process.pid)
        for each in (process, *process.children()):
            each.send_signal(signal.SIGHUP)
        assert httpx.get(f"{server.url}/readyz").status_code == 200
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert all({"time", "level", "pid", "message"} <= set(line) for line in lines)
    (asked,) = (line for line in lines if line.get("request_id") == "r-1")
    assert (asked["message"], asked["status"], asked["error"]) == ("POST /v1/predict", 400, "invalid_image")
    (refused,) = (line for line in lines if line.get("error") == "bad_request")
    assert (refused["status"], refused["client"]) == (400, "127.0.0.1")
    assert 'gapgate_requests_total{route="unmatched",status="400"} 1.0' in counted
    (answered,) = (line for line in lines if line.get("request_id") == "r-2")
    found = answer.json()
    assert {
        name: answered[name] for name in ("client", "class", "receipt", "model", "received_bytes", "sent_bytes")
    } == {
        "client": "127.0.0.1",
        "class": found["class"],
        "receipt": found["receipt"],
        "model": f"{found['model']['name']}/{found['model']['version']}",
        "received_bytes": len(image),
        "sent_bytes": len(answer.content),
    }
    assert answered["milliseconds"] > 0
    told = [line["message"] for line in lines]
    assert "GAPGATE_WORKER is no option of the server; did you mean GAPGATE_WORKERS?" in told
    assert any("one on this machine that speaks HTTP/1.1 and adds no header looks like you" in line for line in told)


def test_the_log_can_be_text(bento: Artifact, tmp_path: Path) -> None:
    with serve(bento.path / "model.bento", work_dir=tmp_path, environment={"GAPGATE_LOG_FORMAT": "text"}) as server:
        server.wait_ready()
    assert " INFO [" in server.log.read_text().splitlines()[0]
