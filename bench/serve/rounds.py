"""The measurements of the serving benchmark: the first seconds of a server, its rounds of load, and the model called
directly."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.http_load import Load
from bench.serve.contestants import BATCH
from bench.serve.inputs import Picture
from bench.serve.rivals.model import Model
from bench.serve.server import Contestant, Server, on_core

CONCURRENCY = 16
RATES = {"multipart": "multipart PNG", "png": "PNG as the body", "tensor": "tensor"}
"""Row → its title; measured in requests/s."""
BATCHES = {
    "batch": f"{BATCH} tensors in a request",
    "batch multipart": f"{BATCH} PNG files in a request",
}
"""Row → its title; measured in images/s, one request after the other."""
REQUESTS_A_BATCH = 16
"""Requests of the other rows for each batch request."""
RESTARTED = ("bare", "gapgate")
"""Servers started anew in each round, for the time that it takes and for their first answers."""
ROUND_S = 2.0
"""The longest that a round lasts; a slow server need not answer all its requests."""
BURST_CONCURRENCY = 64
BURST_S = 1.5


@dataclass(frozen=True, slots=True)
class Life:
    """The first seconds of a server.

    `start_s` is the time from its command to its first answer; `fresh_ms` the median latency of one client before any
    other load, `after_ms` the same within a second after a burst.
    """

    start_s: float
    fresh_ms: float
    after_ms: float


def start(
    stack: ExitStack, entered: Sequence[Contestant], core: int, rounds: int
) -> tuple[list[Server], dict[str, list[Life]]]:
    """All servers, and the name of each → its first seconds, of `rounds` starts where it is in `RESTARTED`."""
    servers = []
    lives: dict[str, list[Life]] = defaultdict(list)
    for contestant in entered:
        servers.append(stack.enter_context(Server(contestant, core)))
        lives[contestant.name].append(_life(servers[-1]))
    for _ in range(rounds - 1):
        for contestant in entered:
            if contestant.name in RESTARTED:
                with Server(contestant, core) as server:
                    lives[contestant.name].append(_life(server))
    return servers, lives


def answering(servers: Sequence[Server], row: str) -> list[Server]:
    """The servers that take this input and give the right classes; the wrong ones are named on the screen."""
    right = []
    for server in servers:
        if row in server.contestant.routes:
            if wrong := server.check(row):
                print(f"not measured: {server.contestant.name}, {row}: {wrong}")
            else:
                right.append(server)
    return right


def measure(server: Server, row: str, num_requests: int) -> Load:
    """One round of one row, after a short load that is not counted."""
    with server.running():
        if row in BATCHES:
            server.load(row, 1, num_requests=2)
            return server.load(row, 1, num_requests=max(1, num_requests // REQUESTS_A_BATCH))
        server.load(row, CONCURRENCY, num_requests=4 * CONCURRENCY)
        return server.load(row, CONCURRENCY, num_requests=num_requests, seconds=ROUND_S)


def call_directly(model: Model, pictures: Sequence[Picture], core: int) -> dict[str, Callable[[int], float]]:
    """Row → a function that calls the model so many times with a batch, on the servers' core, and returns images/s."""
    batches = [
        (np.stack([picture.pixels for picture in batch]), [picture.png for picture in batch])
        for batch in (pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH))
    ]

    def rate(run: Callable[[NDArray[np.uint8], list[bytes]], object], num_calls: int) -> float:
        with on_core(core):
            run(*batches[0])
            started = time.perf_counter()
            for index in range(num_calls):
                run(*batches[index % len(batches)])
            return num_calls * BATCH / (time.perf_counter() - started)

    return {
        "batch": lambda calls: rate(lambda images, files: model.logits(images), calls),
        "batch multipart": lambda calls: rate(
            lambda images, files: model.logits(np.stack([model.decode(file) for file in files])), calls
        ),
    }


def _life(server: Server) -> Life:
    row = next(iter(server.contestant.routes))
    with server.running():
        server.load(row, 1, num_requests=200)
        fresh = server.load(row, 1, num_requests=400)
        server.load(row, BURST_CONCURRENCY, seconds=BURST_S, may_refuse=True)
        after = server.load(row, 1, seconds=1.0)
    return Life(server.start_s, _median_ms(fresh), _median_ms(after))


def _median_ms(load: Load) -> float:
    return statistics.median(load.latencies_s) * 1e3
