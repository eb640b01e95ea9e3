"""A worker process: uvicorn with the application, on a listening socket that it shares with the other workers."""

from __future__ import annotations

import asyncio
import ctypes
import re
import secrets
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.guard.memory import Memory
from serving.http.app import LINGER_S, App, create_app
from serving.http.responses import ApiError, error_response
from serving.options import Options

KEEP_ALIVE_S = 65
"""Seconds that an idle connection is kept. Load balancers keep theirs for 60 s: if the server closed first, a request
could meet a closed connection."""
MAX_HEADER_BYTES = 64 * 1024
"""Most bytes of a request line with its headers; httptools itself sets no limit."""
_HEADERS_TOO_LARGE = ApiError("headers_too_large", f"address and headers exceed {MAX_HEADER_BYTES:,} bytes")
_NOT_HTTP = ApiError("bad_request", "this is not HTTP that the server can read")
_QUIET_S = 0.2
"""Seconds without a new request after which a draining server ends."""
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_SO_ATTACH_FILTER, _BPF_RETURN = 26, 6
"""Linux constants: the option of socket(7), and `BPF_RET | BPF_K`, the return instruction of a classic BPF program."""


class WholeAnswers:
    """A connection's transport that sends the head of an answer and its body in one write, where uvicorn makes two. A
    worker that was killed between them would leave a client half an answer, which no proxy may ask for again."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Hold a head until the next write; write anything else, behind the head if one is held."""
        # 100 Continue has no body and comes before the answer itself (RFC 9110, 15.2.1).
        if not self._head and data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 100"):
            self._head = data
            return
        data, self._head = self._head + data, b""
        self._transport.write(data)

    def flush(self) -> None:
        """Write a head that no body follows, such as that of an answer to HEAD."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        """Flush, and close the connection once all is sent."""
        self.flush()
        self._transport.close()


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a limit on headers, refusals in the form of `ErrorAnswer`, and the times by which
    `Server` finds slow clients."""

    begun: float | None = None
    """Start of the request that is still arriving, or of the connection before its first request, on the loop's clock;
    None while no request is arriving."""
    unsent_bytes = 0
    """Bytes of answers in the write buffer at the last check: the client has not taken them."""
    unsent_since = 0.0
    """Last time at which `unsent_bytes` was 0 or changed, on the loop's clock."""
    _between = True
    """True if the last request is whole and no other has begun."""
    _header_bytes: int | None = None
    """Bytes of the headers that are still arriving; None while a body arrives."""
    _refused = False
    """True once an error was sent; further data are thrown away."""

    def __init__(self, *args: Any, count_refused: Callable[[str, str, ApiError], None], **named: Any) -> None:
        super().__init__(*args, **named)
        self._count_refused = count_refused

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.begun = self.loop.time()
        super().connection_made(cast(asyncio.Transport, WholeAnswers(transport)))

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._between:
            self._between = False
            self.begun = self.loop.time()
            self._header_bytes = 0
        if self._header_bytes is not None:
            data = _without_upgrade(data)
        # The parser calls `on_headers_complete` within this call, which ends the count: a body is not counted below.
        super().data_received(data)
        if self._header_bytes is not None:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                self._refuse(_HEADERS_TOO_LARGE)

    def on_headers_complete(self) -> None:
        self._header_bytes = None
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (not hosts and self.parser.get_http_version() != "1.0"):
            # RFC 9112, 3.2: such a request gets 400. The parser treats an error here as one of its own.
            raise ValueError(f"{hosts} Host headers")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._between = True
        self.begun = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        cast(WholeAnswers, self.transport).flush()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        # The parser takes no address of 64 KiB, and says so before the bytes of its headers are counted.
        self._refuse(_HEADERS_TOO_LARGE if len(self.url) >= MAX_HEADER_BYTES else _NOT_HTTP)

    def _refuse(self, error: ApiError) -> None:
        """Send an error and take nothing more. The client has `LINGER_S` to read it, then the connection closes."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._header_bytes = None
        if self.cycle is not None and not self.cycle.response_complete:
            # Pipelining: a whole request came before the broken one, and its answer comes first. A second answer here
            # would be taken for it.
            if not self.cycle.more_body:
                self.cycle.keep_alive = False
                return
            # The handler still waits for the rest of the body; the event wakes it, and it sees a disconnected client.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        request_id = secrets.token_hex(16)
        response = error_response(error, request_id)
        head = (
            f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\n"
            f"content-type: {response.content_type}\r\ncontent-length: {len(response.body)}\r\n"
            f"x-request-id: {request_id}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode())
        self.transport.write(response.body)
        self._count_refused(self.client[0] if self.client else "", request_id, error)
        # Only the sending side closes now. A close with unread bytes makes the kernel send a reset, which can destroy
        # the answer on its way (RFC 9112, 9.6).
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)


class Server(uvicorn.Server):
    """uvicorn's server that drops no request when it ends, and closes the connections of clients that are too slow."""

    def __init__(self, app: App, called: ASGIApp, is_last: Callable[[], bool]) -> None:
        """Configure uvicorn for `called`, which is `app` or its middleware.

        `is_last` returns True if no other worker takes the connections on the socket after this one ends.
        """
        super().__init__(
            uvicorn.Config(
                called,
                http=cast(Any, partial(Protocol, count_refused=app.count_refused)),
                ws="none",
                loop="uvloop",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                # Longer than the timeout of a request in work, so uvicorn cancels none of those.
                timeout_graceful_shutdown=int(app.options.timeout_s) + 1,
            )
        )
        self._app = app
        self._is_last = is_last

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # uvicorn ticks every 0.1 s
            self._close_slow()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer new requests, each with `Connection: close`, until none comes for `_QUIET_S`; then let uvicorn end.

        A load balancer, or a client on an idle connection, may not know yet that this server ends. If no pause comes
        within `drain_s` and this is the last worker, new connections are refused and the rest is answered.
        """
        # In this order, because a close is a reset for whoever is not answered yet: a listening socket that closes
        # resets the connections in its queue, a connection that closes resets the request on its way.
        self._app.context.work.draining = True
        await self._quiet(self._app.options.drain_s)
        if self._is_last():  # otherwise another worker accepts from the same queue
            _keep_newcomers_out(sockets or [])
            await self._quiet(self._app.options.drain_s)
        await super().shutdown(sockets)
        self._app.stop()

    def _close_slow(self) -> None:
        """Close the connections whose request does not arrive, or whose answer is not taken, within the timeout."""
        now = asyncio.get_running_loop().time()
        # `Request.body` answers a slow body with 408 after `timeout_s`; the client has `LINGER_S` more to read that.
        oldest = now - self._app.options.timeout_s - LINGER_S
        for connection in cast(list[Protocol], list(self.server_state.connections)):
            unsent = connection.transport.get_write_buffer_size()
            if unsent != connection.unsent_bytes or not unsent:
                connection.unsent_bytes, connection.unsent_since = unsent, now
            if connection.unsent_since < oldest:
                # `close` would first wait for the buffer to empty, which this client never lets happen.
                connection.transport.abort()
            elif connection.begun is not None and connection.begun < oldest:
                connection.transport.close()

    async def _quiet(self, timeout_s: float) -> None:
        """Return after a pause of `_QUIET_S` without a new request, or after `timeout_s` seconds."""
        begun = time.perf_counter()
        while True:
            now = time.perf_counter()
            if now - max(begun, self._app.context.work.last_request) > _QUIET_S or now - begun > timeout_s:
                return
            await asyncio.sleep(0.02)


def _keep_newcomers_out(listeners: list[socket.socket]) -> None:
    """Make Linux drop every packet that reaches the listening sockets; on other systems do nothing.

    A client whose SYN is dropped sends it again after a second (RFC 6298), and reaches the next server or is refused.
    Without the filter the kernel would accept the connection, and reset it when the socket closes.
    """
    if sys.platform != "linux":
        return
    # struct sock_filter: u16 code, u8 jt, u8 jf, u32 k. The program returns k, the bytes of a packet to keep: none.
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RETURN, 0, 0, 0))
    # struct sock_fprog: u16 number of instructions, pointer to them; native alignment puts the padding between the two.
    # `setsockopt` copies the program, so `instruction` need not outlive this call.
    program = struct.pack("HP", 1, ctypes.addressof(instruction))
    for listener in listeners:
        with suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _without_upgrade(data: bytes) -> bytes:
    """Rename the header `Upgrade` in the first bytes of a request: RFC 9110, 7.8 lets a server ignore it.

    httptools takes a request with `Upgrade` for one without a body, and Java's HTTP client sends it (h2c) in its first
    request.
    """
    end = data.find(b"\r\n\r\n")
    head = data if end < 0 else data[:end]
    # Two plain searches spare nearly every request the search without regard to case.
    if b"pgrade:" not in head and b"PGRADE:" not in head:
        return data
    return _UPGRADE.sub(b"\r\nignored:", head) + data[len(head) :]


def run(options: Options, package: Path, listener: socket.socket, is_last: Callable[[], bool], memory: Memory) -> None:
    """Serve until SIGTERM; `is_last` is that of `Server`, `memory` the budget of all workers."""
    app, called = create_app(options, package, memory)
    app.start()
    Server(app, called, is_last).run(sockets=[listener])
