"""Checks of what is done to the server: signals, overload, slow clients, many requests, and clients that leave."""

from __future__ import annotations

import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench import http_load
from bench.abuse import hostile_requests
from bench.abuse.raw_client import Connection, SlowClients, burst
from bench.abuse.table import Line
from bench.abuse.usual_requests import all_kinds, prediction
from bench.abuse.victim import Victim, victim
from bench.http_load import Load, forms, get, http

CONCURRENCY = 16


def sigterm(bento: Path, less: int) -> Iterator[Line]:
    """Send SIGTERM under a load that never pauses."""
    for workers in (1, 2):
        drain_s = 2.0
        with victim(bento, {"GAPGATE_WORKERS": str(workers), "GAPGATE_DRAIN_S": str(drain_s)}) as running:
            with Loaded(running, seconds=drain_s + 8) as loads:
                time.sleep(2)  # the load is steady now, and outlasts the drain
                begun = time.perf_counter()
                running.server.process.send_signal(signal.SIGTERM)
                running.server.process.wait(30)
                taken_s = time.perf_counter() - begun
            load = loads[0]
        answered = load.statuses[200]
        figure = f"{answered:,} answered, {load.dropped} dropped, gone after {taken_s:.1f} s"
        kept = not load.dropped and set(load.statuses) == {200} and taken_s < 2 * drain_s + 1
        done = f"SIGTERM under {CONCURRENCY} connections, {workers} worker{'s' * (workers > 1)}, drain {drain_s:g} s"
        yield Line(done, figure, "none dropped", kept)


def killed(bento: Path, less: int) -> Iterator[Line]:
    """Kill one of two workers under load."""
    with victim(bento, {"GAPGATE_WORKERS": "2"}) as running:
        time.sleep(1.2)  # the server waits a second before it replaces a worker that lived for less than one
        before = {worker.pid for worker in running.workers()}
        with Loaded(running, seconds=6) as loads:
            time.sleep(1.5)
            begun = time.perf_counter()
            os.kill(min(before), signal.SIGKILL)
            back_s = _until_new_worker(running, before, begun)
        load = loads[0]
    others = {status for status in load.statuses if status != 200}
    gap_ms = 1e3 * max(load.latencies_s)
    figure = f"{load.statuses[200]:,} answered, {load.dropped} cut off, slowest {gap_ms:.0f} ms, back in {back_s:.2f} s"
    kept = not others and load.dropped <= CONCURRENCY and not load.refused and back_s < 2
    yield Line("kill -9 of one of two workers under load", figure, "the other goes on, back in 2 s", kept)


def overload(bento: Path, less: int) -> Iterator[Line]:
    """Open more connections than the server has slots for."""
    slots = 16
    seconds = 4 if less == 1 else 1.5
    with victim(bento, {"GAPGATE_CONCURRENCY": str(slots)}) as running:
        retry_after = _retry_after(running, slots)
        requests = [prediction(running)]
        http_load.run(running.url, requests, concurrency=slots, seconds=1)
        capacity = http_load.run(running.url, requests, concurrency=slots, seconds=seconds)
        beyond = {
            connections: http_load.run(running.url, requests, concurrency=connections, seconds=seconds)
            for connections in (2 * slots, 8 * slots)
        }
    at_capacity_ms = 1e3 * _p99(capacity.accepted_s)
    for (connections, load), times in zip(beyond.items(), (5, 10), strict=True):
        p99_ms = 1e3 * _p99(load.accepted_s)
        figure = f"{load.statuses[200]:,} × 200, {load.statuses[429]:,} × 429, p99 {p99_ms:.1f} ms"
        answered = set(load.statuses) == {200, 429} and not load.dropped and not load.refused
        kept = answered and p99_ms < times * at_capacity_ms and retry_after == "1"
        done = f"{connections} connections on {slots} slots"
        yield Line(done, figure, f"429 with Retry-After, p99 < {times} × {at_capacity_ms:.1f} ms", kept)


def slow_clients(bento: Path, less: int) -> Iterator[Line]:
    """Let 200 clients send a byte a second beside a normal one."""
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n"
    body = head + b"Content-Type: image/png\r\nContent-Length: 100000\r\n\r\n"
    timeout_s = 3
    with victim(bento, {"GAPGATE_TIMEOUT_S": str(timeout_s)}) as running:
        requests = [prediction(running)]
        http_load.run(running.url, requests, concurrency=1, seconds=1)
        for name, start in (("headers", head), ("bodies", body)):
            alone = http_load.run(running.url, requests, concurrency=1, seconds=2)
            with SlowClients(running.url, 200, start) as slow:
                beside = http_load.run(running.url, requests, concurrency=1, seconds=2)
                slow_then = slow.num_open
                left = slow.wait_closed(timeout_s + 8)
            p50_alone, p50_beside = (1e3 * statistics.median(load.latencies_s) for load in (alone, beside))
            p99_alone, p99_beside = (1e3 * _p99(load.latencies_s) for load in (alone, beside))
            figure = (
                f"p50 {p50_beside:.2f} ms (alone {p50_alone:.2f}), p99 {p99_beside:.2f} ms ({p99_alone:.2f}); "
                f"{slow_then} open then, {left} in the end"
            )
            kept = (
                set(beside.statuses) == {200} and p50_beside < 1.5 * p50_alone + 0.5 and slow_then == 200 and not left
            )
            yield Line(f"200 clients, a byte a second of {name}", figure, "p50 < 1.5 × + 0.5 ms, all closed", kept)


def memory(bento: Path, less: int) -> Iterator[Line]:
    """Send many requests of every kind and watch the memory."""
    number, first = 200_000 // less, 20_000 // less
    with victim(bento) as running:
        requests = all_kinds(running)
        http_load.run(running.url, requests, concurrency=8, num_requests=first)
        rss_before, uss_before = running.memory_mb()
        load = http_load.run(running.url, requests, concurrency=8, num_requests=number - first)
        rss, uss = running.memory_mb()
    growth = 100 * (rss / rss_before - 1), 100 * (uss / uss_before - 1)
    figure = f"RSS {rss:.0f} MB ({growth[0]:+.2f} %), USS {uss:.0f} MB ({growth[1]:+.2f} %); {dict(load.statuses)}"
    yield Line(f"requests {first:,} to {number:,}", figure, "growth < 2 %", max(growth) < 2 and not load.dropped)


def client_gone(bento: Path, less: int) -> Iterator[Line]:
    """Leave a batch before it is answered."""
    images = 100
    form = forms("image", {f"{index}.png": hostile_requests.large_png(3_000) for index in range(images)})
    with victim(bento) as running:
        request = http(running.url, "/v1/predict/batch", *form)
        begun = running.cpu_s()
        with Connection(running.url) as connection:
            connection.send(request)
            time.sleep(1)
            worked_s = running.cpu_s() - begun
        time.sleep(0.5)
        settled = running.cpu_s()
        time.sleep(2)
        after_s = running.cpu_s() - settled
        counted = _counted(running, 'gapgate_requests_total{route="/v1/predict/batch",status="499"}')
    figure = f"{worked_s:.2f} s of processor time while it waits, {after_s:.2f} s in 2 s after; {counted:g} × 499"
    yield Line(
        f"a client leaves its batch of {images}", figure, "its work stops", worked_s > 0.2 > after_s and counted == 1
    )


class Loaded:
    """A load in a thread while this context lasts; its result is in the list afterwards."""

    def __init__(self, running: Victim, seconds: float) -> None:
        requests = [prediction(running)]
        self._loads: list[Load] = []
        self._thread = threading.Thread(
            target=lambda: self._loads.append(
                http_load.run(running.url, requests, concurrency=CONCURRENCY, seconds=seconds)
            )
        )

    def __enter__(self) -> list[Load]:
        self._thread.start()
        return self._loads

    def __exit__(self, *_: object) -> None:
        self._thread.join()


def _until_new_worker(running: Victim, before: set[int], begun: float) -> float:
    """Seconds until a worker that was not there before has answered."""
    while time.perf_counter() - begun < 10:
        with Connection(running.url) as connection:
            answer = connection.ask(get("/readyz"))
            # /readyz does not say who answered: the worker that has the other end of this connection open did.
            own_port = connection.socket.getsockname()[1]
            new = [worker for worker in running.workers() if worker.pid not in before]
            ports = {each.raddr.port for worker in new for each in worker.net_connections() if each.raddr}
            if answer.status == 200 and own_port in ports:
                return time.perf_counter() - begun
    return float("inf")


def _retry_after(running: Victim, slots: int) -> str:
    """The Retry-After of a 429 in a burst."""
    for _ in range(20):
        for answer in burst(running.url, prediction(running), 8 * slots):
            if answer.status == 429:
                return answer.headers.get("retry-after", "")
    return "none"


def _p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


def _counted(running: Victim, series: str) -> float:
    """The sum over all series of `/metrics` that begin so."""
    return sum(value for name, value in running.samples().items() if name.startswith(series))
