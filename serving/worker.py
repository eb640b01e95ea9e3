"""One worker process: uvicorn with the application, on a listening socket that it shares with the other workers."""

from __future__ import annotations

import asyncio
import ctypes
import re
import socket
import struct
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.app import LINGER_S, App, create_app
from serving.options import Options
from serving.responses import ApiError, error_response

KEEP_ALIVE_S = 65
"""Longer than load balancers keep idle connections (60 s), which else send into a closed one."""
MAX_HEADER_BYTES = 64 * 1024
"""Largest request line with headers; httptools itself sets no limit."""
_QUIET_S = 0.2
"""A draining server without a new request for so long ends."""
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_SO_ATTACH_FILTER, _BPF_RETURN = 26, 6
"""Of Linux: socket(7), and `BPF_RET | BPF_K` of its socket filters."""


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP, with limits on headers and on time, and refusals in our form."""

    begun: float | None = None
    """When the request that is not whole yet began, on the loop's clock; before the first, when the client came."""
    unsent_bytes = 0
    """Of answers, at the last look: the client does not take them."""
    unsent_since = 0.0
    _between = True
    """Whether the last request is whole and none has begun since."""
    _header_bytes: int | None = None
    """Of the headers that are not complete yet."""
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.begun = self.loop.time()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._between:
            self._between = False
            self.begun = self.loop.time()
            self._header_bytes = 0
        if self._header_bytes is not None:
            data = _without_upgrade(data)
        super().data_received(data)
        if self._header_bytes is not None:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                text = f"the headers exceed {MAX_HEADER_BYTES:,} bytes"
                self._refuse(ApiError(431, "headers_too_large", text))

    def on_headers_complete(self) -> None:
        self._header_bytes = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._between = True
        self.begun = None
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError(400, "bad_request", "this is not HTTP that the server can read"))

    def _refuse(self, error: ApiError) -> None:
        """Answer, and take nothing more; the connection stays for a moment so that the client gets to read it."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._header_bytes = None
        if self.cycle is not None and not self.cycle.response_complete:
            if not self.cycle.more_body:  # a whole request before the broken one, which gets its answer
                self.cycle.keep_alive = False
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        request_id = uuid.uuid4().hex
        response = error_response(error, request_id)
        head = (
            f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\n"
            f"content-type: {response.content_type}\r\ncontent-length: {len(response.body)}\r\n"
            f"x-request-id: {request_id}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + response.body)
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)


class Server(uvicorn.Server):
    """uvicorn's server, which ends without dropping a request and closes connections whose headers never come."""

    def __init__(self, app: App, called: ASGIApp, is_last: Callable[[], bool]) -> None:
        """`is_last` tells whether nobody else listens on the socket, or will, once this worker ends."""
        super().__init__(
            uvicorn.Config(
                called,
                http=cast(Any, Protocol),
                ws="none",
                loop="uvloop",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=int(app.options.timeout_s) + 1,
            )
        )
        self._app = app
        self._is_last = is_last

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # once a second
            self._close_slow()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what still comes, each with `Connection: close`, until nothing does: a balancer or a client on a kept
        connection may not know yet. A listening socket that closes resets what waits in its queue, and a connection
        that closes what is on the way to it. Where no end comes, and no other worker takes what waits, newcomers are
        kept out until the rest is answered."""
        self._app.context.work.draining = True
        await self._quiet(self._app.options.drain_s)
        if self._is_last():
            _keep_newcomers_out(sockets or [])
            await self._quiet(self._app.options.drain_s)
        await super().shutdown(sockets)

    def _close_slow(self) -> None:
        """Close the connections whose request does not become whole, or whose answer is not taken, in time.

        A body that comes too slowly gets its 408 before.
        """
        now = asyncio.get_running_loop().time()
        oldest = now - self._app.options.timeout_s - LINGER_S
        for connection in cast(list[Protocol], list(self.server_state.connections)):
            unsent = connection.transport.get_write_buffer_size()
            if unsent != connection.unsent_bytes or not unsent:
                connection.unsent_bytes, connection.unsent_since = unsent, now
            if connection.unsent_since < oldest:
                connection.transport.abort()
            elif connection.begun is not None and connection.begun < oldest:
                connection.transport.close()

    async def _quiet(self, timeout_s: float) -> None:
        """Return once no new request comes."""
        begun = time.perf_counter()
        while True:
            now = time.perf_counter()
            if now - max(begun, self._app.context.work.last_request) > _QUIET_S or now - begun > timeout_s:
                return
            await asyncio.sleep(0.02)


def _keep_newcomers_out(listeners: list[socket.socket]) -> None:
    """From now on Linux drops what comes to the listening sockets: whoever connects tries again a second later, and
    gets the next server or a refusal, where else a connection would be accepted and then reset."""
    if sys.platform != "linux":
        return
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RETURN, 0, 0, 0))  # accept 0 bytes of a packet
    program = struct.pack("HP", 1, ctypes.addressof(instruction))
    for listener in listeners:
        with suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _without_upgrade(data: bytes) -> bytes:
    """A request's beginning whose wish for another protocol is not seen, as RFC 9110, 7.8 allows. httptools takes a
    request with that wish for one without a body, and Java's HTTP client has it (h2c) in its first one."""
    end = data.find(b"\r\n\r\n")
    head = data if end < 0 else data[:end]
    if b"pgrade:" not in head and b"PGRADE:" not in head:
        return data
    return _UPGRADE.sub(b"\r\nignored:", head) + data[len(head) :]


def run(options: Options, package: Path, listener: socket.socket, is_last: Callable[[], bool]) -> None:
    """Serve until SIGTERM; `is_last` as for `Server`."""
    app, called = create_app(options, package)
    Server(app, called, is_last).run(sockets=[listener])
