"""MLflow's own server on the workspace's local store."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from components.platform.workspace import artifacts_dir, tracking_uri
from gapgate.errors import ServeError
from gapgate.process import child_server

_PR_SET_PDEATHSIG = 1
# Linux ends the server when the process that started it ends, also by SIGKILL; other systems go without.
_TIED = (
    "import ctypes, os, sys\n"
    # It stays set over execv (prctl(2)).
    f"sys.platform != 'linux' or ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {int(signal.SIGTERM)})\n"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
)


_QUIET = ["--uvicorn-opts", "--log-level warning"]
"""Options of MLflow's server: no line for each request."""


def command(port: int) -> list[str]:
    """Arguments after the Python executable that start the server on a loopback port."""
    # One worker, not MLflow's four: one person looks at one SQLite file.
    store = ["--backend-store-uri", tracking_uri(), "--default-artifact-root", artifacts_dir().as_uri()]
    address = ["--host", child_server.LOOPBACK, "--port", str(port), "--workers", "1"]
    return ["-m", "mlflow", "server", *store, *address, *_QUIET]


def environment() -> dict[str, str]:
    """The environment of this process, with MLflow's usage statistics and its second process for jobs switched off, and
    without its notes on how it is built."""
    switched_off = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return os.environ | switched_off | {"PYTHONWARNINGS": "ignore", "MLFLOW_LOGGING_LEVEL": "WARNING"}


def serve(port: int, ready: Callable[[str], None]) -> int:
    """Run the server until it ends or this process is told to, by Ctrl-C or SIGTERM; it ends with this process, however
    that ends. Returns its exit code, 0 if it was told to.

    Args:
        port: port of the loopback address; 0 takes a free one.
        ready: called with its address once it answers.

    Raises:
        ServeError: another program listens on the port, or the server ends before it answers.
    """
    if port:
        try:
            socket.create_server((child_server.LOOPBACK, port)).close()
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise ServeError(
                f"port {port} cannot be used ({reason}); stop what has it, or name another with --port"
            ) from None
    # As Ctrl-C does, so that the block ends in order.
    signal.signal(signal.SIGTERM, _interrupted)
    log = child_server.Relay()
    with suppress(KeyboardInterrupt), _started(log, port or child_server.free_port(), 120.0) as (process, address):
        log.pass_on(held=False)  # at its start MLflow says how it could be set up otherwise
        ready(address)
        return process.wait()
    return 0


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


@contextmanager
def running(log: Path, timeout_s: float = 120.0) -> Iterator[str]:
    """Run the server on a free port for the time of the block; yields its address once it answers. Its output goes to
    `log`.

    Raises:
        ServeError: it ends, or does not answer in `timeout_s` seconds.
    """
    with _started(log, child_server.free_port(), timeout_s) as (_, address):
        yield address


@contextmanager
def _started(
    log: Path | child_server.Relay, port: int, timeout_s: float
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    address = f"http://{child_server.LOOPBACK}:{port}"
    process = child_server.start([sys.executable, "-c", _TIED, *command(port)], log, env=environment())
    try:
        name = f"MLflow's server on {tracking_uri()}"
        child_server.wait(process, log, name, lambda: child_server.unanswered(f"{address}/health"), timeout_s)
        yield process, address
    finally:
        child_server.stop(process, 5.0, whole_group=True)
