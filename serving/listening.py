"""Listening socket of a server; the process that opens it hands it to the process that answers."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from gapgate.errors import ServeError

BACKLOG = 2048
"""Most connections that wait to be accepted; Linux caps it at `net.core.somaxconn`."""


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 takes a free port, and `::` takes IPv4 as well.

    Raises:
        ServeError: the address is not available.
    """
    try:
        # A name may have addresses of both kinds: the first one counts, as for clients.
        family, _, _, _, address = socket.getaddrinfo(
            host.removesuffix("."), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        is_both = host == "::" and socket.has_dualstack_ipv6()
        # An IPv6 address has flow and scope behind the port, which `create_server` does not take.
        return socket.create_server(address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=is_both)
    except OSError as error:
        raise ServeError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port") from None


def listen_on_path(path: Path, is_open: bool) -> socket.socket:
    """Open a Unix socket at `path`, for this user alone unless `is_open`; one that nobody listens on is replaced.

    Raises:
        ServeError: another server listens there, or the path cannot be used.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(os.fspath(path)) == 0:
                    raise OSError("another server listens there")
            path.unlink()
        listener.bind(os.fspath(path))
        # Before `listen`: until then nobody can connect, whatever mode the umask has given.
        path.chmod(0o666 if is_open else 0o600)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ServeError(f"cannot listen on {path}: {error.strerror or error}; choose another --uds") from None
    return listener
