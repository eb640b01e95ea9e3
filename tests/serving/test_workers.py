"""Workers that end and come back, under a load that never pauses."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench import http_load
from bench.abuse.raw_client import Connection
from bench.abuse.victim import Victim, victim
from bench.http_load import http
from gapgate.artifacts import Artifact
from tests.serving.packaged import picture

CONNECTIONS = 16


@contextmanager
def loaded(running: Victim) -> Iterator[list[http_load.Load]]:
    """Loads that go on until the end of this context, the first of them answered."""
    loads: list[http_load.Load] = []
    answered, over = threading.Event(), threading.Event()
    requests = [http(running.url, "/v1/predict", picture(16, 16), "image/png")]

    def drive() -> None:
        while not over.is_set():
            ran = http_load.run(
                running.url, requests, concurrency=CONNECTIONS, seconds=1, on_answer=lambda *_: answered.set()
            )
            loads.append(ran)
            if ran.refused:
                return

    thread = threading.Thread(target=drive)
    thread.start()
    try:
        assert answered.wait(60)
        yield loads
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_a_load_that_never_pauses_drops_no_request(bento: Artifact, workers: int) -> None:
    environment = {"GAPGATE_WORKERS": str(workers), "GAPGATE_DRAIN_S": "1"}
    with victim(bento.path / "model.bento", environment) as running, loaded(running) as loads:
        running.server.process.send_signal(signal.SIGTERM)
        assert running.server.process.wait(60) == 0
    assert {status for load in loads for status in load.statuses} == {200}
    assert sum(load.dropped for load in loads) == 0
    assert loads[-1].refused > 0


def test_a_killed_worker_is_replaced_while_the_other_goes_on(bento: Artifact) -> None:
    with victim(bento.path / "model.bento", {"GAPGATE_WORKERS": "2"}) as running:
        time.sleep(1.2)  # one that lives shorter is replaced later
        before = {worker.pid for worker in running.workers()}
        with loaded(running) as loads:
            os.kill(min(before), signal.SIGKILL)
            wait_until_a_new_one_answers(running, before)
        assert len(running.workers()) == 2
    assert {status for load in loads for status in load.statuses} == {200}
    # What was in its hands, at most one request of each connection: on a busy machine it may have accepted all of them.
    assert sum(load.dropped for load in loads) <= CONNECTIONS
    assert sum(load.refused for load in loads) == 0


def wait_until_a_new_one_answers(running: Victim, before: set[int]) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert time.monotonic() < deadline
        with Connection(running.url) as connection:
            assert connection.ask(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").status == 200
            own_port = connection.socket.getsockname()[1]
            new = [worker for worker in running.workers() if worker.pid not in before]
            if own_port in {each.raddr.port for worker in new for each in worker.net_connections() if each.raddr}:
                return
