"""A closed-loop HTTP/1.1 load generator: each connection sends its next request when it has the answer to the last.

The requests are bytes made beforehand and the answers are only counted, so that one core of client outruns one core of
any Python server: a server that answers a constant gets 25,000 requests/s from it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from urllib.parse import urlsplit

import httptools
import uvloop


@dataclass(slots=True)
class Load:
    """The answers to a load, counted and timed."""

    statuses: Counter[int] = field(default_factory=Counter)
    """HTTP status → number of answers."""
    dropped: int = 0
    """Requests sent on an accepted connection that got no whole answer."""
    refused: int = 0
    """Connections that were not accepted."""
    latencies_s: list[float] = field(default_factory=list)
    """Time of each answer since the write of its request, in order of arrival."""
    accepted_s: list[float] = field(default_factory=list)
    """Times of the answers with status 200 alone."""
    seconds: float = 0.0
    """Duration of the whole load."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies_s) / self.seconds


def http(url: str, path: str, body: bytes, content_type: str, method: str = "POST", headers: str = "") -> bytes:
    """A request as bytes, whose length is right; `headers` is given as lines that end with CRLF."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Length: {len(body)}\r\n"
    # Latin-1 is the encoding of HTTP/1.1's head, so that a hostile header reaches the server byte by byte.
    return f"{head}Content-Type: {content_type}\r\n{headers}\r\n".encode("latin-1", "replace") + body


def get(path: str) -> bytes:
    """A GET request as bytes."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode("latin-1", "replace")


def form(field_name: str, data: bytes, filename: str = "image.png") -> tuple[bytes, str]:
    """A multipart body with one file, and its content type."""
    return forms(field_name, {filename: data})


def forms(field_name: str, files: Mapping[str, bytes]) -> tuple[bytes, str]:
    """A multipart body with PNG files by their names, all in one field, and its content type."""
    boundary = "gapgate-0123456789abcdef"
    body = b""
    for filename, data in files.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{field_name}"; filename="{filename}"\r\n'
        body += f"{head}Content-Type: image/png\r\n\r\n".encode() + data + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def run(
    url: str,
    requests: Sequence[bytes],
    *,
    concurrency: int,
    num_requests: int | None = None,
    seconds: float | None = None,
    on_answer: Callable[[int, bytes], None] | None = None,
    reconnect: bool = True,
) -> Load:
    """Send `requests` in turn over `concurrency` connections until `num_requests` are answered or `seconds` are over.

    `on_answer` gets the status and body of each answer. With `reconnect`, a connection that the server closes after an
    answer is opened anew.
    """
    split = urlsplit(url)
    load = Load()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(
            _drive(
                load,
                str(split.hostname),
                split.port or 80,
                cycle(requests),
                concurrency,
                num_requests,
                seconds,
                on_answer,
                reconnect,
            )
        )
    return load


async def _drive(
    load: Load,
    host: str,
    port: int,
    requests: Iterator[bytes],
    concurrency: int,
    num_requests: int | None,
    seconds: float | None,
    on_answer: Callable[[int, bytes], None] | None,
    reconnect: bool,
) -> None:
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    deadline = started + seconds if seconds is not None else float("inf")
    left = num_requests if num_requests is not None else float("inf")

    def take() -> bytes | None:
        nonlocal left
        if left <= 0 or time.perf_counter() >= deadline:
            return None
        left -= 1
        return next(requests)

    async def client() -> None:
        while True:
            try:
                _, protocol = await loop.create_connection(lambda: _Client(load, take, on_answer), host, port)
            except OSError:
                load.refused += 1
                return
            if not await protocol.ended or not reconnect:
                return

    await asyncio.gather(*(client() for _ in range(concurrency)))
    load.seconds = time.perf_counter() - started


class _Client(asyncio.Protocol):
    """One connection. Also the parser's callbacks: httptools calls `on_header`, `on_body` and `on_message_complete`."""

    def __init__(
        self, load: Load, take: Callable[[], bytes | None], on_answer: Callable[[int, bytes], None] | None
    ) -> None:
        self.load = load
        self.take = take
        self.on_answer = on_answer
        self.ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """True when the server closed the connection between two requests: there may be more to send."""
        self.waiting = False
        self.closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # uvloop's is no subclass of asyncio's
        self._send()

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.waiting:
            self.load.dropped += 1
        if not self.ended.done():
            self.ended.set_result(not self.waiting)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"connection" and value.lower() == b"close":
            self.closing = True

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        taken_s = time.perf_counter() - self.sent
        status = self.parser.get_status_code()
        self.load.statuses[status] += 1
        self.load.latencies_s.append(taken_s)
        if status == 200:
            self.load.accepted_s.append(taken_s)
        if self.on_answer:
            self.on_answer(status, self.body)
        self.waiting = False
        if self.closing:  # the server said so: to send more would count its close as a dropped request
            self.transport.close()
        else:
            self._send()

    def _send(self) -> None:
        content = self.take()
        if content is None:
            self.ended.set_result(False)
            self.transport.close()
            return
        self.parser = httptools.HttpResponseParser(self)
        self.body = b""
        self.waiting = True
        self.sent = time.perf_counter()
        self.transport.write(content)
