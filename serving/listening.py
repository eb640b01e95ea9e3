"""Listening socket of a server; the process that opens it hands it to the process that answers."""

from __future__ import annotations

import socket

from gapgate.errors import ServeError

BACKLOG = 2048
"""Most connections that wait to be accepted; Linux caps it at `net.core.somaxconn`."""


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 takes a free port.

    Raises:
        ServeError: the address is not available.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ServeError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port") from None
