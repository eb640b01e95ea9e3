"""A real proxy in front of a real MLflow server, which disturbs one kind of call, or many by chance."""

from __future__ import annotations

import http.client
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

FAULTS = ("drop", "lose", "fail", "delay")
"""The call does not reach the server; its answer is lost; the answer is 500; the client gives up before the answer."""
TIMEOUT_S = 1
"""Seconds after which the clients of these tests give up."""

_FILES = ("MLmodel", "receipt.json", "model.bento")
"""Files that are told apart, since what follows their upload differs."""


@dataclass
class Proxy:
    """What a proxy does, and what it has seen."""

    url: str = ""
    fault: str = ""
    call: str = ""
    """Kind of call to disturb."""
    times: int = 0
    """How many calls are disturbed still."""
    chance: float = 0.0
    """Share of all calls that are disturbed in a random way."""
    drawn: random.Random = field(default_factory=random.Random)
    seen: list[str] = field(default_factory=list)
    """Kinds of the calls so far."""
    disturbed: list[str] = field(default_factory=list)

    def disturb(self, call: str, fault: str, times: int) -> None:
        self.call, self.fault, self.times = call, fault, times

    def heal(self) -> None:
        self.times, self.chance = 0, 0.0

    def fault_of(self, call: str) -> str:
        """The fault that a call gets; empty: none."""
        self.seen.append(call)
        found = ""
        if self.chance and self.drawn.random() < self.chance:
            found = self.drawn.choice(FAULTS)
        elif self.times and call == self.call:
            self.times -= 1
            found = self.fault
        if found:
            self.disturbed.append(f"{found} {call}")
        return found


def kind_of(method: str, path: str) -> str:
    """A call without what differs from one run to the other."""
    path = re.sub(r"m?-?[0-9a-f]{32}", "ID", urlsplit(path).path)
    path = re.sub(r"^/api/2.0/mlflow(-artifacts)?/", "", path)
    if path.startswith("artifacts/"):  # of an upload or a download
        name = PurePosixPath(path).name
        path = f"artifacts/{name if name in _FILES else 'FILE'}"
    return f"{method} {path}"


@contextmanager
def proxy(server: str) -> Iterator[Proxy]:
    """Start a proxy before the server at this address."""
    target, found = urlsplit(server), Proxy()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def handle_call(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                fault = found.fault_of(kind_of(self.command, self.path))
            if fault == "drop":
                return
            if fault == "fail":
                return self._answer(500, b"{}", "application/json")
            connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")
            }
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if fault == "delay":
                time.sleep(TIMEOUT_S * 1.5)
            if fault != "lose":
                self._answer(answer.status, content, answer.headers.get("Content-Type", ""))
            return None

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_call  # noqa: N815

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Nothing: the client has given up, as it should."""

    with Server(("127.0.0.1", 0), Handler) as listener:
        found.url = f"http://127.0.0.1:{listener.server_address[1]}"
        thread = threading.Thread(target=listener.serve_forever, args=[0.01])
        thread.start()
        try:
            yield found
        finally:
            listener.shutdown()
            thread.join()
