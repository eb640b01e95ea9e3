"""MLflow's own server on the workspace's local store."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.platform.workspace import home, tracking_uri
from gapgate.errors import ServeError

_HOST = "127.0.0.1"
_PR_SET_PDEATHSIG = 1
# Linux ends the server when the process that started it ends, also by SIGKILL; other systems go without.
_TIED = (
    "import ctypes, os, sys\n"
    f"sys.platform != 'linux' or ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {int(signal.SIGTERM)})\n"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
)


def command(port: int) -> list[str]:
    """Arguments after the Python executable that start the server on a loopback port."""
    # One worker, not MLflow's four: one person looks at one SQLite file.
    store = ["--backend-store-uri", tracking_uri(), "--default-artifact-root", (home() / "mlartifacts").as_uri()]
    return ["-m", "mlflow", "server", *store, "--host", _HOST, "--port", str(port), "--workers", "1"]


def environment() -> dict[str, str]:
    """The environment of this process, with MLflow's usage statistics and its second process for jobs switched off."""
    return os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@contextmanager
def running(log: Path, timeout_s: float = 120.0) -> Iterator[str]:
    """Run the server on a free port for the time of the block; yields its address once it answers. Its output goes to
    `log`.

    Raises:
        ServeError: it ends, or does not answer in `timeout_s` seconds.
    """
    with socket.create_server((_HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _TIED, *command(port)],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        address = f"http://{_HOST}:{port}"
        _wait(process, address, log, timeout_s)
        yield address
    finally:
        _stop(process)


def _wait(process: subprocess.Popen[bytes], address: str, log: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not _answers(address):
        if process.poll() is not None:
            last = (log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"])[-1]
            raise ServeError(f"MLflow's server on {tracking_uri()} ended with code {process.returncode}: {last}")
        if time.monotonic() > deadline:
            raise ServeError(f"MLflow's server on {tracking_uri()} does not answer after {timeout_s:g} s; try again")
        time.sleep(0.1)


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/health", timeout=1.0).close()
    except OSError:
        return False
    return True


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number, timeout_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout_s)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()
