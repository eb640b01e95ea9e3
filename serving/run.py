"""Serving a `.bento` archive as a child process: unpack, start, wait until it is ready, stop it whole."""

from __future__ import annotations

import lzma
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from gapgate.errors import ArtifactError, ServeError, storage_errors
from serving.privacy import QUIET

_POLL_S = 0.05
_EXCEPTION = re.compile(r"[\w.]+(Error|Exception): ")
"""The last line of a traceback; uvicorn's own last line only says that the start failed."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; as a context manager it is stopped at the end."""

    process: subprocess.Popen[bytes]
    url: str
    """`http://host:port`"""
    log: Path
    """What the server prints."""

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Return once `/readyz` answers 200.

        Raises:
            ServeError: the server ended, or is not ready after `timeout_s` seconds; with the reason in its log.
        """
        deadline = time.monotonic() + timeout_s
        while not self._is_ready():
            if self.process.poll() is not None:
                raise ServeError(f"the server ended with code {self.process.returncode}: {self._reason()}")
            if time.monotonic() > deadline:
                raise ServeError(f"the server is not ready after {timeout_s:g} s: {self._reason()}; see {self.log}")
            time.sleep(_POLL_S)

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the server and every process that it started: SIGTERM, and SIGKILL after `timeout_s` seconds."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=1.0) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def _reason(self) -> str:
        """The last exception in the log, or its last line."""
        lines = self.log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
        exceptions = [line for line in lines if _EXCEPTION.match(line)]
        return (exceptions or lines)[-1].strip()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def serve(bento_path: Path, *, host: str = "127.0.0.1", port: int = 0, work_dir: Path) -> Server:
    """Start one worker on a `.bento` archive; port 0 takes a free one.

    `work_dir` gets the unpacked Bento, BentoML's own files and the log; two servers need two of them. The server is in
    a process group of its own: Ctrl-C in a terminal does not reach it, `Server.stop` ends all of it.

    Raises:
        ArtifactError: the archive is missing or is no Bento.
        ServeError: the address cannot be had.
    """
    bento_dir = unpack(bento_path, work_dir / "bento")
    log = work_dir / "server.log"
    with _listen(host, port) as listener, log.open("wb") as output:
        process = subprocess.Popen(
            _worker_command(bento_dir, listener.fileno()),
            cwd=bento_dir,
            env=_environment(work_dir / "bentoml"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
        bound_port = listener.getsockname()[1]
    return Server(process, f"http://{f'[{host}]' if ':' in host else host}:{bound_port}", log)


def unpack(bento_path: Path, folder: Path) -> Path:
    """Extract a `.bento` archive into `folder`, replacing what was there; returns its absolute path.

    Raises:
        ArtifactError: the archive is missing or is no Bento.
    """
    with storage_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            with tarfile.open(bento_path, "r:xz") as archive:
                archive.extractall(folder, filter="data")
        except FileNotFoundError:
            raise ArtifactError(f"{bento_path} is missing; run the package step") from None
        except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
            raise ArtifactError(f"{bento_path} is not a Bento ({error}); run the package step again") from None
    if not (folder / "bento.yaml").is_file():
        raise ArtifactError(f"{bento_path} is not a Bento (it has no bento.yaml); run the package step again")
    return folder.resolve()


def _worker_command(bento_dir: Path, listener: int) -> list[str]:
    """The worker that `bentoml serve` starts, without its supervisor, which would import BentoML and the Bento first:
    ready after 2.9 s instead of 5.0 s, on a port that nobody can take in between, and one process to end."""
    worker = [sys.executable, "-m", "_bentoml_impl.worker.service"]
    return [*worker, str(bento_dir), "--fd", str(listener), "--worker-id", "1"]


def _environment(home: Path) -> dict[str, str]:
    """Without PYTHONPATH, so that the server runs the source inside the Bento."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return inherited | {"BENTOML_HOME": str(home.resolve()), **QUIET}


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ServeError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port") from None
