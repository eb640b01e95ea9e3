"""A server as a child process: started in its own process group, awaited, and ended with all processes it started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gapgate.errors import ServeError

LOOPBACK = "127.0.0.1"
_POLL_S = 0.02
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


def start(command: Sequence[str], log: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start a command without input; its output is appended to `log`. `options` are those of `subprocess.Popen`."""
    # A session of its own: Ctrl-C in the terminal does not reach the server, so `stop` can end it in order, and its
    # process group has the same number as the process.
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **options
        )


def wait(
    process: subprocess.Popen[bytes], log: Path, name: str, problem: Callable[[], Problem | None], timeout_s: float
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
            raise ServeError(f"{name} ended with code {process.returncode}: {last_line(log)}")
        if found is None:
            return
        if isinstance(found, ServeError):
            raise found
        if time.monotonic() > deadline:
            raise ServeError(f"{name} is not ready after {timeout_s:g} s: {found}; see {log}")
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


def get(url: str) -> None:
    """Send a GET request to `url`.

    Raises:
        HTTPError: the status of the answer is not 2xx.
        OSError: there is no answer within a second.
    """
    _OPENER.open(url, timeout=1.0).close()


def unanswered(url: str) -> str | None:
    """Return the reason why `url` does not answer, or None if it does."""
    try:
        get(url)
    except OSError as error:
        return str(error)
    return None


def last_line(log: Path) -> str:
    """Return the last line that the server printed."""
    lines = log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
    return lines[-1].removeprefix("error: ")
