"""MLflow's own server on the workspace's local store."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.platform.workspace import artifacts_dir, tracking_uri
from gapgate import child_server

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
    store = ["--backend-store-uri", tracking_uri(), "--default-artifact-root", artifacts_dir().as_uri()]
    return ["-m", "mlflow", "server", *store, "--host", child_server.LOOPBACK, "--port", str(port), "--workers", "1"]


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
    port = child_server.free_port()
    address = f"http://{child_server.LOOPBACK}:{port}"
    process = child_server.start([sys.executable, "-c", _TIED, *command(port)], log, env=environment())
    try:
        name = f"MLflow's server on {tracking_uri()}"
        child_server.wait(process, log, name, lambda: child_server.unanswered(f"{address}/health"), timeout_s)
        yield address
    finally:
        child_server.stop(process, 5.0, whole_group=True)
