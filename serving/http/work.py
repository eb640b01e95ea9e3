"""Limits on the work of a worker process: slots for requests, and threads for calls that would block the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from prometheus_client import Gauge

from serving.guard.image_guard import Limits
from serving.guard.memory import Memory
from serving.http.request import ClientGoneError, Request
from serving.http.responses import ApiError
from serving.options import Options

T = TypeVar("T")
Cancelled = Callable[[], bool]
"""Function that returns True once nobody waits for the result."""


class Work:
    """The slots and threads of one worker process. `async with` takes a slot for a request.

    A request takes its slot once its body is whole, so slow uploads hold none.
    """

    def __init__(self, options: Options, in_progress: Gauge, memory: Memory) -> None:
        """Make the slots and threads that `options` gives; the gauge `in_progress` shows how many slots are taken."""
        self.limits = Limits(options.max_pixels, options.served, memory)
        # No lock: only the event loop counts.
        self.in_progress = 0
        self._gauge = in_progress
        self.buffered_bytes = 0
        """Bytes of unfinished uploads: many slow ones must not fill the memory."""
        self.last_request = 0.0
        """Time at which the newest request came, on `time.perf_counter`."""
        self.draining = False
        """True if the process is about to end: it still answers, and closes each connection with the answer."""
        self._limit = options.concurrency
        self._timeout_s = options.timeout_s
        self._threads = ThreadPoolExecutor(options.threads, thread_name_prefix="work")

    async def __aenter__(self) -> None:
        """Take a slot.

        Raises:
            ApiError: 429, all slots are taken.
        """
        if self.in_progress >= self._limit:
            message = f"{self._limit} requests are in work; try again in a second"
            raise ApiError("overloaded", message, {"Retry-After": "1"})
        self.in_progress += 1
        self._gauge.inc()
        # Every request that arrived in this turn of the event loop counts itself before the first is worked on: without
        # it a burst is answered one by one, nobody ever sees a full server, and the last waits for all the others.
        await asyncio.sleep(0)

    async def __aexit__(self, *_: object) -> None:
        self.in_progress -= 1
        self._gauge.dec()

    async def in_thread(self, request: Request, call: Callable[[Cancelled], T]) -> T:
        """Run `call` in a thread; its argument returns True once the client is gone or the timeout is over.

        Raises:
            ApiError: 504, no result within the timeout.
            ClientGoneError: the client closed its connection.
        """
        cancelled = threading.Event()
        result: asyncio.Future[T] = asyncio.get_running_loop().run_in_executor(self._threads, call, cancelled.is_set)
        # The body was read before, so the next message of the connection is its end.
        gone: asyncio.Future[Any] = asyncio.ensure_future(request.gone())
        try:
            await asyncio.wait((result, gone), timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
            # Both can be done at once. A finished result comes first: it cost its time already.
            if result.done():
                return result.result()
            if gone.done():
                raise ClientGoneError
            message = f"no answer within {self._timeout_s:g} s; send fewer or smaller images, or try again later"
            raise ApiError("timeout", message)
        finally:
            # A running thread cannot be cancelled, it has to look at the event; `cancel` below reaches only a call that
            # still waits for a thread. The slot is free from here on, before the thread has ended.
            cancelled.set()
            gone.cancel()
            result.cancel()

    def close(self) -> None:
        """Cancel the calls that have not begun, and let the threads end without waiting for them."""
        self._threads.shutdown(wait=False, cancel_futures=True)
