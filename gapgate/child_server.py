"""A server as a child process: started in a process group of its own, awaited, and ended with all that it started."""

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
"""No proxy of the environment leads to our own server."""

Problem = str | ServeError
"""Why a server does not answer yet; an error, where it never will."""


def free_port() -> int:
    """A port of the loopback address on which nobody listens now."""
    with socket.create_server((LOOPBACK, 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def start(command: Sequence[str], log: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start a command without input; what it prints is added to `log`. Ctrl-C in a terminal does not reach it.
    `options` are those of `subprocess.Popen`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **options
        )


def wait(
    process: subprocess.Popen[bytes], log: Path, name: str, problem: Callable[[], Problem | None], timeout_s: float
) -> None:
    """Return once `problem` is None; `name` is what the messages call the server.

    Raises:
        ServeError: the server ended, never will be ready, or is not ready after `timeout_s` seconds; with the reason.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = problem()
        if process.poll() is not None:  # of a server with several processes, one may answer for a moment longer
            raise ServeError(f"{name} ended with code {process.returncode}: {last_line(log)}")
        if found is None:
            return
        if isinstance(found, ServeError):
            raise found
        if time.monotonic() > deadline:
            raise ServeError(f"{name} is not ready after {timeout_s:g} s: {found}; see {log}")
        time.sleep(_POLL_S)


def stop(process: subprocess.Popen[bytes], timeout_s: float = 10.0, *, whole_group: bool = False) -> None:
    """End a server and every process that it started: SIGTERM, to it or to its `whole_group`, and SIGKILL to what is
    left when it has ended or after `timeout_s` seconds."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM) if whole_group else process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout_s)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def get(url: str) -> None:
    """Ask for `url`.

    Raises:
        HTTPError: it answers with another status than 2xx.
        OSError: it does not answer within a second.
    """
    _OPENER.open(url, timeout=1.0).close()


def unanswered(url: str) -> str | None:
    """Why `url` does not answer, or None when it does."""
    try:
        get(url)
    except OSError as error:
        return str(error)
    return None


def last_line(log: Path) -> str:
    """What the server printed last."""
    lines = log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
    return lines[-1].removeprefix("error: ")
