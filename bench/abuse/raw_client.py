"""A client on the bare socket: it sends what an HTTP library refuses to, reads answer by answer, and can be slow."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools


@dataclass(slots=True)
class Answer:
    """One HTTP response."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def code(self) -> str:
        """The code of the error in the body."""
        return str(self.json()["error"]["code"])

    def json(self) -> Any:
        """The body's content."""
        return json.loads(self.body)


@dataclass(slots=True)
class Connection:
    """One TCP connection. What goes wrong in it is an `OSError`."""

    url: str
    timeout_s: float = 10.0
    """Limit of each read and write."""
    socket: socket.socket = field(init=False)
    _parser: Any = field(init=False, default=None)
    _headers: dict[str, str] = field(init=False, default_factory=dict)
    _body: bytes = field(init=False, default=b"")
    _answers: list[Answer] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        split = urlsplit(self.url)
        self.socket = socket.create_connection((str(split.hostname), split.port or 80), self.timeout_s)
        self._parser = httptools.HttpResponseParser(self)

    def send(self, data: bytes) -> None:
        """Write all of it."""
        self.socket.sendall(data)

    def ask(self, data: bytes) -> Answer:
        """Write a request and read its answer."""
        self.send(data)
        return self.answer()

    def answer(self) -> Answer:
        """The next answer; 1xx are passed over.

        Raises:
            ConnectionError: the server closed before it was whole.
        """
        while not self._answers:
            if not (data := self.socket.recv(65_536)):
                raise ConnectionError("closed without a whole answer")
            self._parser.feed_data(data)
        return self._answers.pop(0)

    def is_closed(self, within_s: float = 5.0) -> bool:
        """True: the server closes within that time."""
        self.socket.settimeout(within_s)
        try:
            while self.socket.recv(65_536):
                pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:  # 1xx are interim: the answer itself follows (RFC 9110, 15.2)
            self._answers.append(Answer(status, self._headers, self._body))
        self._headers, self._body = {}, b""


def ask(url: str, data: bytes, timeout_s: float = 10.0) -> Answer:
    """Send one request on a connection of its own."""
    with Connection(url, timeout_s) as connection:
        return connection.ask(data)


def burst(url: str, data: bytes, number: int) -> list[Answer]:
    """Send a request on each of so many open connections before any answer is read."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(Connection(url)) for _ in range(number)]
        for connection in connections:
            connection.send(data)
        return [connection.answer() for connection in connections]


class SlowClients:
    """Connections that send one byte a second each, until they are closed; as a context manager."""

    def __init__(self, url: str, number: int, head: bytes, rest: bytes = b"x" * 100_000) -> None:
        """Each sends `head` at once and `rest` slowly."""
        self._connections = [Connection(url) for _ in range(number)]
        for connection in self._connections:
            connection.send(head)
            connection.socket.setblocking(False)
        self._rest = rest
        self._open = set(range(number))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._trickle)
        self._thread.start()

    @property
    def num_open(self) -> int:
        """Connections that the server has not closed."""
        return len(self._open)

    def wait_closed(self, timeout_s: float) -> int:
        """Wait until all are closed or the time is over; the number of those still open."""
        deadline = time.monotonic() + timeout_s
        while self._open and time.monotonic() < deadline:
            time.sleep(0.1)
        return len(self._open)

    def _trickle(self) -> None:
        for sent in range(len(self._rest)):
            for index in list(self._open):
                self._send(index, self._rest[sent : sent + 1])
            if self._ended.wait(1.0):
                return

    def _send(self, index: int, byte: bytes) -> None:
        connection = self._connections[index].socket
        try:
            connection.send(byte)
            while True:  # an answer is read and dropped; an empty read is the server's close
                if not connection.recv(65_536):
                    self._open.discard(index)
                    return
        except BlockingIOError:
            pass
        except OSError:
            self._open.discard(index)

    def __enter__(self) -> SlowClients:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.close()
