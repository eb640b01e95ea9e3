"""More clients than the server takes on, and clients that are too slow."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Iterator

import pytest

from bench import http_load
from bench.abuse import hostile_requests
from bench.abuse.raw_client import Connection, SlowClients, ask
from bench.abuse.victim import Victim, victim
from bench.http_load import http
from gapgate.artifacts import Artifact
from tests.serving.packaged import SIZE_PX, picture

TIMEOUT_S = 1
SLOTS = 8
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n"
HEADERS = HEAD + b"Content-Type: image/png\r\nContent-Length: 100000\r\n\r\n"


@pytest.fixture(scope="module")
def running(bento: Artifact) -> Iterator[Victim]:
    environment = {"GAPGATE_TIMEOUT_S": str(TIMEOUT_S), "GAPGATE_CONCURRENCY": str(SLOTS)}
    with victim(bento.path / "model.bento", environment) as found:
        yield found


def predictions(running: Victim) -> list[bytes]:
    return [http(running.url, "/v1/predict", picture(16, 16), "image/png")]


def test_beyond_its_capacity_a_server_answers_429_and_the_accepted_do_not_wait(running: Victim) -> None:
    requests = predictions(running)
    capacity = http_load.run(running.url, requests, concurrency=SLOTS, seconds=1)
    assert set(capacity.statuses) == {200}
    beyond = http_load.run(running.url, requests, concurrency=8 * SLOTS, seconds=2)
    assert set(beyond.statuses) == {200, 429}
    assert beyond.dropped == 0
    # A queue of all 64 would let each wait about eight times as long.
    assert statistics.median(beyond.accepted_s) < 8 * statistics.median(capacity.accepted_s)


def test_a_refusal_for_load_says_when_to_come_back(running: Victim) -> None:
    connections = [Connection(running.url) for _ in range(16 * SLOTS)]
    request = http(running.url, "/v1/explain", picture(16, 16), "image/png")
    for connection in connections:
        connection.send(request)
    answers = [connection.answer() for connection in connections]
    for connection in connections:
        connection.close()
    refused = [answer for answer in answers if answer.status == 429]
    assert refused
    assert {answer.status for answer in answers} == {200, 429}
    assert {(answer.code, answer.headers["retry-after"]) for answer in refused} == {("overloaded", "1")}


@pytest.mark.parametrize("head", [HEAD, HEADERS], ids=["headers", "bodies"])
def test_slow_clients_slow_nobody_and_are_closed_in_the_end(running: Victim, head: bytes) -> None:
    requests = predictions(running)
    before = http_load.run(running.url, requests, concurrency=1, num_requests=100)
    with SlowClients(running.url, 200, head) as slow:
        beside = http_load.run(running.url, requests, concurrency=1, num_requests=100)
        assert slow.num_open > 100  # a busy machine may meet the first ones' timeout by now
        assert slow.wait_closed(TIMEOUT_S + 60) == 0
    after = http_load.run(running.url, requests, concurrency=1, num_requests=100)
    assert set(beside.statuses) == {200}
    alone_s = max(statistics.median(load.latencies_s) for load in (before, after))
    assert statistics.median(beside.latencies_s) < 10 * alone_s


def test_a_client_that_falls_silent_is_closed(running: Victim) -> None:
    connections = [Connection(running.url) for _ in range(4)]
    said = (b"", b"GET /liv", HEADERS, HEADERS.replace(b"predict", b"nothing"))
    for connection, part in zip(connections, said, strict=True):
        connection.send(part)
    for connection in connections:
        assert connection.is_closed(TIMEOUT_S + 60)
        connection.close()


def test_a_slow_body_is_told_that_it_is_late(running: Victim) -> None:
    with Connection(running.url) as connection:
        connection.send(HEADERS + b"x")
        answer = connection.answer()
    assert (answer.status, answer.code) == (408, "upload_timeout")


def test_a_client_that_never_reads_its_answers_is_closed(running: Victim) -> None:
    with Connection(running.url) as connection:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.send(b"GET /docs.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2_000)
        port = connection.socket.getsockname()[1]
        for is_connected in (True, False):
            deadline = time.monotonic() + TIMEOUT_S + 60
            while (port in connected(running)) != is_connected:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def connected(running: Victim) -> set[int]:
    return {each.raddr.port for worker in running.workers() for each in worker.net_connections() if each.raddr}


def test_many_requests_leave_no_memory_behind(running: Victim) -> None:
    url = running.url
    form, form_type = http_load.form("image", picture(16, 16))
    requests = [http(url, "/v1/predict", data, "image/png") for data in hostile_requests.pictures(16)]
    requests += [
        http(url, "/v1/predict", form, form_type),
        http(url, "/v1/predict/batch", bytes(4 * SIZE_PX * SIZE_PX), "application/octet-stream"),
        http(url, "/v1/predict", b"no image", "image/png"),
        http(url, "/v1/predict", b"{}", "application/json"),
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ]
    http_load.run(url, requests, concurrency=4, num_requests=2_000)
    before, _ = running.memory_mb()
    load = http_load.run(url, requests, concurrency=4, num_requests=8_000)
    after, _ = running.memory_mb()
    assert load.dropped == 0
    assert after < 1.05 * before
    assert ask(url, requests[0]).status == 200
