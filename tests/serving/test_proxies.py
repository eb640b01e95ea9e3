"""The configurations of docs/deploy.md behind real nginx and HAProxy: a rolling restart under load costs no request."""

from __future__ import annotations

import hashlib
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from gapgate.artifacts import Artifact
from gapgate.process.child_server import free_port
from serving.run import Server, serve
from tests.serving.packaged import picture
from tests.waiting import wait_for

KEY = "key of the proxy"
KEYS = {"GAPGATE_API_KEYS": hashlib.sha256(KEY.encode()).hexdigest()}
PAGE = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
PROXIES = [
    pytest.param(
        "nginx", marks=pytest.mark.skipif(NGINX is None, reason="nginx is not installed: not tested behind it")
    ),
    pytest.param(
        "haproxy", marks=pytest.mark.skipif(HAPROXY is None, reason="HAProxy is not installed: not tested behind it")
    ),
]


def from_page(language: str, ports: dict[str, int]) -> str:
    """The only block of a language in the page, with other ports."""
    (block,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    for port, other in ports.items():
        assert f":{port}" in block
        block = block.replace(f":{port}", f":{other}")
    return str(block)


@contextmanager
def proxy(kind: str, config: str, port: int, folder: Path) -> Iterator[str]:
    """A running proxy; its address."""
    file = folder / f"{kind}.conf"
    if kind == "nginx":
        paths = "".join(f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy"))
        paths += "".join(f"{name}_temp_path {folder}/{name};" for name in ("fastcgi", "uwsgi", "scgi"))
        file.write_text(
            f"daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
            f"http {{ access_log off; {paths}\n{config}\n}}\n"
        )
        command = [str(NGINX), "-c", str(file), "-e", f"{folder}/error.log"]
    else:
        file.write_text(config)
        command = [str(HAPROXY), "-db", "-f", str(file)]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"
    try:

        def answers() -> bool:
            assert process.poll() is None, (folder / "output").read_text()
            with suppress(httpx.TransportError):
                return httpx.get(f"{url}/readyz").status_code == 200
            return False

        wait_for(answers)
        yield url
    finally:
        process.terminate()
        process.wait(30)


class Load:
    """Clients that ask without a pause, and what they got."""

    def __init__(self, url: str) -> None:
        self.statuses: list[int | str] = []
        self._ends = threading.Event()
        self._url = url
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def go_on(self, count: int) -> None:
        """Wait for as many more answers."""
        target = len(self.statuses) + count
        wait_for(lambda: len(self.statuses) >= target)

    def _ask(self) -> None:
        headers = {"X-API-Key": KEY, "content-type": "image/png"}
        with httpx.Client(base_url=self._url, headers=headers, timeout=60) as client:
            while not self._ends.wait(0.005):
                try:
                    answer = client.post("/v1/predict", content=picture(16, 16))
                    self.statuses.append(200 if answer.status_code == 200 else f"{answer.status_code} {answer.text}")
                except httpx.TransportError as error:
                    self.statuses.append(repr(error))


@pytest.mark.parametrize("kind", PROXIES)
def test_a_rolling_restart_of_two_servers_costs_no_client_a_request(bento: Artifact, tmp_path: Path, kind: str) -> None:
    ports = {"3001": free_port(), "3002": free_port(), "8080": free_port()}

    def started(name: str, number: int) -> Server:
        server = serve(
            bento.path / "model.bento", port=ports[name], work_dir=tmp_path / f"{name}-{number}", environment=KEYS
        )
        server.wait_ready()
        return server

    with ExitStack() as stack:
        servers = {name: stack.enter_context(started(name, 0)) for name in ("3001", "3002")}
        config = from_page(kind, ports)
        url = stack.enter_context(proxy(kind, config, ports["8080"], tmp_path))
        with Load(url) as load:  # it ends before the servers do
            load.go_on(50)
            for name, server in servers.items():
                server.process.send_signal(signal.SIGTERM)
                server.process.wait(60)
                load.go_on(50)
                new = stack.enter_context(started(name, 1))
                wait_for(lambda new=new: 'requests_total{route="/v1/predict",status="200"}' in metrics(new))
                load.go_on(50)
            if kind == "nginx":  # HAProxy does so too for requests that fit into its buffer
                (worker,) = psutil.Process(new.process.pid).children()
                worker.kill()
                load.go_on(100)
    assert set(load.statuses) == {200}


def metrics(server: Server) -> str:
    return httpx.get(f"{server.url}/metrics", headers={"X-API-Key": KEY}).text


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed: its plain proxy_pass is not tested")
def test_without_keys_the_plainest_proxy_gets_no_answer(server: Server, tmp_path: Path) -> None:
    port = free_port()
    config = f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {server.url}; }} }}"
    with proxy("nginx", config, port, tmp_path) as url:
        answer = httpx.post(f"{url}/v1/predict", content=picture(16, 16), headers={"content-type": "image/png"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "loopback_only")
