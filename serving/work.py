"""How much a worker takes on: slots for requests, and threads for what would hold up the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from prometheus_client import Gauge

from serving.options import Options
from serving.request import ClientGoneError, Request
from serving.responses import ApiError

T = TypeVar("T")
Cancelled = Callable[[], bool]
"""Whether nobody waits for the result any more."""


class Work:
    """The requests that one worker process works on. `async with` takes a slot.

    A slot is taken when the body is whole, so slow uploads hold none.
    """

    def __init__(self, options: Options, in_progress: Gauge) -> None:
        """`in_progress` shows how many slots are taken."""
        self.in_progress = 0
        self._gauge = in_progress
        self.last_request = 0.0
        """When the newest request came, on `time.perf_counter`."""
        self.draining = False
        """Whether the process is about to end: it still answers, and closes each connection with the answer."""
        self._limit = options.concurrency
        self._timeout_s = options.timeout_s
        self._threads = ThreadPoolExecutor(options.threads, thread_name_prefix="work")

    async def __aenter__(self) -> None:
        """Raises:
        ApiError: 429, all slots are taken."""
        if self.in_progress >= self._limit:
            message = f"{self._limit} requests are in work; try again in a second"
            raise ApiError(429, "overloaded", message, {"Retry-After": "1"})
        self.in_progress += 1
        self._gauge.inc()
        # Every request that arrived in this turn of the event loop counts itself before the first is worked on: without
        # it a burst is answered one by one, nobody ever sees a full server, and the last waits for all the others.
        await asyncio.sleep(0)

    async def __aexit__(self, *_: object) -> None:
        self.in_progress -= 1
        self._gauge.dec()

    async def in_thread(self, request: Request, call: Callable[[Cancelled], T]) -> T:
        """Run `call` beside the event loop; it is told when the client is gone or the time is over.

        Raises:
            ApiError: 504, no result within the timeout.
            ClientGoneError: the client closed its connection.
        """
        cancelled = threading.Event()
        result: asyncio.Future[T] = asyncio.get_running_loop().run_in_executor(self._threads, call, cancelled.is_set)
        gone: asyncio.Future[Any] = asyncio.ensure_future(request.gone())
        try:
            await asyncio.wait((result, gone), timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return result.result()
            if gone.done():
                raise ClientGoneError
            message = f"no answer within {self._timeout_s:g} s; send fewer or smaller images, or try again later"
            raise ApiError(504, "timeout", message)
        finally:
            cancelled.set()
            gone.cancel()
            result.cancel()

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
