"""A real MLflow server as a process, versions published to it as `register` and `package` do, and a proxy in front of
it that checks credentials or misbehaves."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gapgate import artifacts
from gapgate.evidence.sealed import seal
from gapgate.evidence.sealed.package import ARCHIVE_TAG
from gapgate.evidence.sealed.receipt import Receipt
from gapgate.process import child_server

ALIAS = "champion"


class RegistryServer:
    """`mlflow server` on one port and one database; it may be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = child_server.free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, **variables: str) -> None:
        log = self._folder / "server.log"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder}/server.db"]
        command += ["--artifacts-destination", str(self._folder / "store"), *options]
        # MLflow's own jobs are seven processes more, of 2 s of processor time each to start.
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | variables
        self._process = child_server.start(command, log, cwd=self._folder, env=environment)
        problem = partial(child_server.unanswered, f"{self.url}/health")
        child_server.wait(self._process, log, "MLflow's server", problem, 120)

    def requests(self) -> list[str]:
        """Method and path of each request so far, from the server's own log; those for its health left out."""
        found = re.findall(r'"([A-Z]+ /[^ ?]*)[^"]* HTTP/', (self._folder / "server.log").read_text())
        return [each for each in found if not each.endswith("/health")]

    def stop(self) -> None:
        if self._process is not None:
            child_server.stop(self._process, whole_group=True)
            self._process = None


class Publisher:
    """Publishes versions of one model, made from one real package."""

    def __init__(self, server: RegistryServer, name: str, source: Path, scratch: Path) -> None:
        os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
        from mlflow import MlflowClient

        self.name, self.url = name, server.url
        self.client = MlflowClient(server.url)
        self.client.create_registered_model(name)
        self._source, self._scratch = source, scratch

    def register(self, *, verdict: str = "pass") -> str:
        """A version without a package."""
        run = self.client.create_run("0")
        made = self.client.create_model_version(
            self.name, source=run.info.artifact_uri, run_id=run.info.run_id, tags={"gapgate.verdict": verdict}
        )
        return str(made.version)

    def make_package(
        self, version: str, change: Callable[[Path], None] = lambda folder: None, source: Path | None = None
    ) -> Path:
        """The package of a version, changed and then sealed; its receipt becomes the version's."""
        folder = self._scratch / f"{self.name}-{version}"
        shutil.copytree(source or self._source, folder)
        content = artifacts.read_json(folder / "receipt.json") | {"model_name": self.name, "model_version": version}
        receipt = Receipt.model_validate(content)
        artifacts.write_json(folder / "receipt.json", receipt.model_dump(mode="json"))
        registration = {"name": self.name, "version": version, "receipt": receipt.digest}
        artifacts.write_json(folder / "registration.json", registration)
        self.client.set_model_version_tag(self.name, version, "gapgate.receipt", receipt.digest)
        change(folder)
        seal.seal(folder)
        return folder

    def log_digest(self, version: str, digest: str) -> None:
        self.client.set_tag(self.run_id(version), "package.digest", digest)

    def log_archive(self, version: str, archive: Path) -> None:
        self.client.log_artifact(self.run_id(version), str(archive), "package")

    def publish(
        self,
        change: Callable[[Path], None] = lambda folder: None,
        *,
        verdict: str = "pass",
        source: Path | None = None,
    ) -> str:
        """A version with its package; not promoted."""
        version = self.register(verdict=verdict)
        folder = self.make_package(version, change, source)
        archive = pack(folder, self._scratch / version)
        self.log_archive(version, archive)
        self.client.set_model_version_tag(self.name, version, ARCHIVE_TAG, artifacts.sha256_file(archive))
        self.log_digest(version, seal.verify(folder))
        return version

    def promote(self, version: str) -> str:
        self.client.set_registered_model_alias(self.name, ALIAS, version)
        return version

    def run_id(self, version: str) -> str:
        return str(self.client.get_model_version(self.name, version).run_id)


def pack(folder: Path, place: Path, extra: Callable[[tarfile.TarFile], None] = lambda tar: None) -> Path:
    """`place/model.bento` with `folder` as its model, as `serving.bento` packs it, and what `extra` adds."""
    place.mkdir(parents=True, exist_ok=True)
    archive = place / "model.bento"
    with tarfile.open(archive, "w:") as tar:
        tar.add(folder, "src/model")
        extra(tar)
    return archive


@contextmanager
def proxy(
    server: RegistryServer,
    *,
    authorization: str = "",
    redirect_to: str = "",
    cuts: Iterator[int] | None = None,
    stop_bytes: int = 0,
    pause: threading.Event | None = None,
    has_new_tags: bool = False,
) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """An HTTP server before `server`: its address, and the headers of each request that it got.

    It asks for `authorization`, redirects all to `redirect_to`, leaves out the last bytes of a file for each of `cuts`,
    closes the connection after `stop_bytes` of a file, waits in the middle of it for `pause`, or `has_new_tags` in each
    answer, as MLflow's server for a file in a remote store.
    """
    seen: list[dict[str, str]] = []
    target = urlsplit(server.url)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(dict(self.headers))
            if redirect_to:
                return self._send(302, b"", Location=redirect_to + self.path)
            if authorization and self.headers.get("Authorization") != authorization:
                return self._send(401, b"You are not authenticated")
            connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=10)
            passed_on = {name: self.headers[name] for name in ("Range", "If-Range") if name in self.headers}
            connection.request("GET", self.path, headers=passed_on)
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            cut = 0
            if "get-artifact" in self.path:
                cut = max(len(body) - stop_bytes, 0) if stop_bytes else next(cuts or iter(()), 0)
            tag = f'"{len(seen)}"' if has_new_tags else answer.headers.get("ETag", "")
            self._send(answer.status, body, cut=cut, ETag=tag)
            return None

        def _send(self, status: int, body: bytes, cut: int = 0, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            half = len(body) // 2 if pause else 0
            self.wfile.write(body[:half])
            if pause and "get-artifact" in self.path:
                pause.wait(60)
            with suppress(OSError):  # the client may be gone by now
                self.wfile.write(body[half : len(body) - cut])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_address[1]}", seen
        finally:
            listener.shutdown()
            thread.join()
