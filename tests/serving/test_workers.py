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
def loaded(running: Victim, seconds: float) -> Iterator[list[http_load.Load]]:
    """The load of so many seconds is in the list at the end of this context."""
    loads: list[http_load.Load] = []
    requests = [http(running.url, "/v1/predict", picture(16, 16), "image/png")]

    def drive() -> None:
        loads.append(http_load.run(running.url, requests, concurrency=CONNECTIONS, seconds=seconds))

    thread = threading.Thread(target=drive)
    thread.start()
    try:
        yield loads
    finally:
        thread.join()


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_a_load_that_never_pauses_drops_no_request(bento: Artifact, workers: int) -> None:
    environment = {"GAPGATE_WORKERS": str(workers), "GAPGATE_DRAIN_S": "1"}
    with victim(bento.path / "model.bento", environment) as running, loaded(running, 30) as loads:
        time.sleep(0.5)
        running.server.process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        running.server.process.wait(20)
        assert time.monotonic() - begun < 10
    assert set(loads[0].statuses) == {200}
    assert loads[0].dropped == 0
    assert loads[0].refused > 0


def test_a_killed_worker_is_replaced_while_the_other_goes_on(bento: Artifact) -> None:
    with victim(bento.path / "model.bento", {"GAPGATE_WORKERS": "2"}) as running:
        time.sleep(1.2)  # one that lives shorter is replaced later
        before = {worker.pid for worker in running.workers()}
        with loaded(running, 3) as loads:
            time.sleep(0.5)
            os.kill(min(before), signal.SIGKILL)
            begun = time.monotonic()
            assert until_a_new_one_answers(running, before) - begun < 6
        assert len(running.workers()) == 2
    assert set(loads[0].statuses) == {200}
    assert loads[0].dropped < CONNECTIONS
    assert loads[0].refused == 0


def until_a_new_one_answers(running: Victim, before: set[int]) -> float:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with Connection(running.url) as connection:
            assert connection.ask(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").status == 200
            own_port = connection.socket.getsockname()[1]
            new = [worker for worker in running.workers() if worker.pid not in before]
            if own_port in {each.raddr.port for worker in new for each in worker.net_connections() if each.raddr}:
                break
    return time.monotonic()
