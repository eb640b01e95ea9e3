"""A server as a child process: started in its own process group, awaited, and ended with all processes it started."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from gapgate.errors import ServeError

LOOPBACK = "127.0.0.1"
_POLL_S = 0.02
_NEWS = re.compile(r'^[\d-]+ [\d:,.]+ (?:INFO|DEBUG) |"level": "(?:info|debug)"')
"""Beginning of a line of a log, or a part of it in JSON, that tells of no fault."""
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opener without proxies: those of the environment (`http_proxy`) do not lead to our own server."""

Problem = str | ServeError
"""Reason why a server does not answer yet; a `ServeError` if it never will."""


def free_port() -> int:
    """Return a port of the loopback address on which no process listens now."""
    # The system picks it for a socket that is closed again: another process may take it before the server does, which
    # `wait` then reports.
    with socket.create_server((LOOPBACK, 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


class Relay:
    """Log of a server that no file keeps: lines are held, and from `pass_on` on written to standard error."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=200)
        self._reader, self._writer = os.pipe()
        self._passes = False
        self._lock = threading.Lock()
        # A daemon: a child that a server has left behind may hold its end of the pipe for ever.
        self._thread = threading.Thread(target=self._read, daemon=True)

    def open(self, mode: str) -> BinaryIO:
        """Return the end that the server writes to; the lines end when it and all its children have ended."""
        self._thread.start()
        return cast(BinaryIO, os.fdopen(self._writer, "wb", buffering=0))

    def read_text(self, errors: str = "strict") -> str:
        """Return the last lines."""
        with self._lock:
            return "".join(self._lines)

    def pass_on(self, *, held: bool = True) -> None:
        """Write what came so far, if `held`, and from now on every line as it comes."""
        with self._lock:
            for line in self._lines if held else ():
                _write(line)
            self._passes = True

    def finish(self) -> None:
        """Wait until the last lines of a server that has ended are written."""
        self._thread.join(5.0)

    def _read(self) -> None:
        with os.fdopen(self._reader, errors="replace") as lines:
            for line in lines:
                with self._lock:
                    self._lines.append(line)
                    if self._passes:
                        _write(line)


def _write(line: str) -> None:
    with suppress(OSError, ValueError):  # a terminal that was closed
        sys.stderr.write(line)
        sys.stderr.flush()


def start(command: Sequence[str], log: Path | Relay, **options: Any) -> subprocess.Popen[bytes]:
    """Start a command without input; its output is appended to `log`. `options` are those of `subprocess.Popen`."""
    # A session of its own: Ctrl-C in the terminal does not reach the server, so `stop` can end it in order, and its
    # process group has the same number as the process.
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **options
        )


def wait(
    process: subprocess.Popen[bytes],
    log: Path | Relay,
    name: str,
    problem: Callable[[], Problem | None],
    timeout_s: float,
) -> None:
    """Wait until `problem()` is None; `name` is the server's name in messages.

    Raises:
        ServeError: the server ended, will never be ready, or is not ready after `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = problem()
        # The end of the process counts before an answer: a child of a server that has ended may answer a moment longer.
        if process.poll() is not None:
            if isinstance(log, Relay):
                log.finish()
            if not process.returncode:
                raise ServeError(f"{name} ended, as it was told to by a signal; start it again")
            raise ServeError(f"{name} ended with code {process.returncode}: {last_line(log)}")
        if found is None:
            return
        if isinstance(found, ServeError):
            raise found
        if time.monotonic() > deadline:
            seen = f"; see {log}" if isinstance(log, Path) else ""
            raise ServeError(f"{name} is not ready after {timeout_s:g} s: {found}{seen}")
        time.sleep(_POLL_S)


def stop(process: subprocess.Popen[bytes], timeout_s: float = 10.0, *, whole_group: bool = False) -> None:
    """End a server and every process that it started.

    SIGTERM goes to the server, or to its process group if `whole_group`. SIGKILL goes to the rest of the group once the
    server has ended, or after `timeout_s` seconds.
    """
    # Both signals may find that nothing is left. The process is the leader of its group (`start`), so its number names
    # the group even after it has ended, while one member lives.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM) if whole_group else process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout_s)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()  # takes the exit code, so that no zombie remains


class _UnixConnection(http.client.HTTPConnection):
    """Connection to a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=1.0)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


class _UnixHandler(urllib.request.HTTPHandler):
    """Handler of `http:` that connects to a Unix socket, whatever the host."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def http_open(self, request: urllib.request.Request) -> Any:
        # In the place of a class of connections: the host of the URL and the options say nothing of a socket's path.
        return self.do_open(lambda host, **options: _UnixConnection(self._path), request)


def get(url: str, uds: Path | None = None) -> None:
    """Send a GET request to `url`, by the Unix socket `uds` if there is one.

    Raises:
        HTTPError: the status of the answer is not 2xx.
        OSError: there is no answer within a second.
    """
    opener = urllib.request.build_opener(_UnixHandler(uds)) if uds else _OPENER
    opener.open(url, timeout=1.0).close()


def unanswered(url: str) -> str | None:
    """Return the reason why `url` does not answer, or None if it does."""
    try:
        get(url)
    except OSError as error:
        return str(error)
    return None


def last_line(log: Path | Relay) -> str:
    """Return the last line that the server printed and that is no mere piece of news."""
    lines = log.read_text(errors="replace").strip().splitlines()
    told = [line for line in lines if not _NEWS.search(line)]
    return told[-1].removeprefix("error: ") if told else "it printed no error"
