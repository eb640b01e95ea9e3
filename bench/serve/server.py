"""A contestant's server: started on its core, measured by the client, stopped between its rounds, ended whole."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from bench import http_load
from bench.http_load import Load, http

PORT = "{port}"
"""The place in a command of the port to listen on."""

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server that takes part: its command and its routes."""

    name: str
    command: Sequence[str | Path]
    """`PORT` in it becomes the port."""
    routes: dict[str, Route]
    """Row of the table → how this server takes that input."""
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """The path that one kind of input goes to, what is sent there, and what must come back."""

    path: str
    bodies: Sequence[tuple[bytes, str]]
    """Each body and its content type; sent in turn."""
    expected: Sequence[list[str]]
    """The classes in a right answer to each body."""
    read: Callable[[Any], list[str]]
    """The classes in an answer's JSON."""


class Server:
    """A running contestant. It and all its children are stopped (SIGSTOP) except under `running`."""

    def __init__(self, contestant: Contestant, core: int) -> None:
        self.contestant = contestant
        self._folder = TemporaryDirectory(prefix="gapgate-bench-")
        self._log = Path(self._folder.name, "log")
        self._tree: list[psutil.Process] = []
        port = _free_port()
        self._url = f"http://127.0.0.1:{port}"
        started = time.perf_counter()
        self._process = self._start(port, core)
        try:
            self._wait_ready()
            self.start_s = time.perf_counter() - started
            """Seconds from the start of the command to the first answer."""
            self._requests = {row: self._encode(route) for row, route in contestant.routes.items()}
            self._pause()
        except BaseException:
            self.close()
            raise

    def _start(self, port: int, core: int) -> subprocess.Popen[bytes]:
        """Start the command; it inherits the core from this thread."""
        with on_core(core), self._log.open("wb") as log:
            return subprocess.Popen(
                [str(part).replace(PORT, str(port)) for part in self.contestant.command],
                cwd=self._folder.name,
                env=_clean_environment() | self.contestant.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_ready(self) -> None:
        """Return at the first answer 200 to a prediction."""
        route = next(iter(self.contestant.routes.values()))
        body, content_type = route.bodies[0]
        request = urllib.request.Request(self._url + route.path, body, {"Content-Type": content_type})
        deadline = time.monotonic() + START_TIMEOUT_S
        reason = "no answer"
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(request, timeout=5.0):
                    return
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {error.read()[:500]!r}"
            except OSError as error:
                reason = str(error)
            if self._process.poll() is not None:
                reason = f"ended with code {self._process.returncode}"
                break
            time.sleep(POLL_S)
        log = self._log.read_text(errors="replace")[-3000:]
        raise SystemExit(f"{self.contestant.name} is not ready ({reason}); its log:\n{log}")

    def _encode(self, route: Route) -> list[bytes]:
        return [http(self._url, route.path, body, content_type) for body, content_type in route.bodies]

    def check(self, row: str) -> str:
        """Send the row's bodies one after the other; "" where every answer is right, else the first wrong one."""
        route = self.contestant.routes[row]
        wrong: list[str] = []
        expected = iter(route.expected)

        def compare(status: int, body: bytes) -> None:
            classes = next(expected)
            if status != 200:
                wrong.append(f"POST {route.path} answers {status} {body[:200].decode(errors='replace')}")
            elif (found := route.read(json.loads(body))) != classes:
                wrong.append(f"POST {route.path} answers {found} instead of {classes}")

        with self.running():
            http_load.run(
                self._url, self._requests[row], concurrency=1, num_requests=len(route.bodies), on_answer=compare
            )
        return wrong[0] if wrong else ""

    def load(
        self,
        row: str,
        concurrency: int,
        *,
        num_requests: int | None = None,
        seconds: float | None = None,
        may_refuse: bool = False,
    ) -> Load:
        """Load a server that is `running`. Every answer must be 200, or 429 where it `may_refuse`."""
        load = http_load.run(
            self._url, self._requests[row], concurrency=concurrency, num_requests=num_requests, seconds=seconds
        )
        accepted = {200, 429} if may_refuse else {200}
        if load.statuses.keys() - accepted or load.dropped or load.refused:
            raise SystemExit(
                f"{self.contestant.name}, {row}: answers {dict(load.statuses)}, {load.dropped} dropped, "
                f"{load.refused} connections refused"
            )
        return load

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the server run in this context."""
        for process in reversed(self._tree):  # children first: a parent that wakes finds its workers at work
            _signal(process, signal.SIGCONT)
        try:
            yield
        finally:
            self._pause()

    def processes(self) -> list[psutil.Process]:
        """The command and all its children, children last."""
        return list(self._tree)

    def _pause(self) -> None:
        self._tree = self._find_tree()
        for process in self._tree:  # parents first: none may see a stopped worker and replace it
            _signal(process, signal.SIGSTOP)

    def _find_tree(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            raise SystemExit(f"{self.contestant.name} ended during the run") from None

    def close(self) -> None:
        """SIGTERM to the command, and SIGKILL to what is left of it and its children."""
        tree = self._tree
        if self._process.poll() is None:
            tree = list({*tree, *self._find_tree()})
        for process in tree:  # SIGTERM stays pending as long as a process is stopped
            _signal(process, signal.SIGCONT)
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        for process in tree:
            _signal(process, signal.SIGKILL)
        self._process.wait()
        self._folder.cleanup()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Bind this thread to one core in this context."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def _signal(process: psutil.Process, number: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _clean_environment() -> dict[str, str]:
    """The environment without the user's settings of the servers."""
    prefixes = ("GAPGATE_", "BENTOML_", "UVICORN_", "MLFLOW_", "PYTHONPATH")
    return {key: value for key, value in os.environ.items() if not key.startswith(prefixes)}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
