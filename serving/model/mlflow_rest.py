"""Client for a few GET requests to an MLflow server, on the standard library: a Bento's environment has no mlflow."""

from __future__ import annotations

import base64
import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlencode, urlsplit, urlunsplit

from gapgate.errors import ArtifactError, RegistryError, SettingsError, TrackingError, storage_errors
from serving.options import is_loopback

_CHUNK_BYTES = 2**20
_MAX_JSON_BYTES = 16 * 2**20
_ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
"""MLflow's error codes for something that does not exist; for an alias it is the second, with status 400."""
_API = "api/2.0/mlflow/"


class MlflowRest:
    """Client of one server, with the credentials that MLflow's own client takes: `MLFLOW_TRACKING_USERNAME` and
    `MLFLOW_TRACKING_PASSWORD`, or `MLFLOW_TRACKING_TOKEN`, or those in the address."""

    def __init__(self, tracking_uri: str, *, timeout_s: float) -> None:
        parts = urlsplit(tracking_uri)
        host = parts.netloc.rpartition("@")[2]
        self.address = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
        """Address of the server without credentials, for messages and for the name of its cache."""
        if parts.scheme not in ("http", "https") or not host:
            shown = self.address if parts.username else tracking_uri
            raise SettingsError(
                f"MLFLOW_TRACKING_URI={shown} is not the address of a server; a model is followed over http or "
                "https: start `mlflow server` and give its address"
            )
        self._timeout_s = timeout_s
        self._headers = _authorization(parts.username, parts.password)
        # For a proxy, 127.0.0.1 is the proxy's machine. urllib asks it even so, unless `no_proxy` has the address.
        proxies = urllib.request.ProxyHandler({} if is_loopback(parts.hostname or "") else None)
        self._opener = urllib.request.build_opener(proxies, _SameHost)

    def get(self, path: str, /, **query: str) -> dict[str, Any]:
        """Return the answer of the REST API at `path`, such as `runs/get`.

        Raises:
            RegistryError: the server has no such object.
            TrackingError: the server does not answer, or not as an MLflow server does.
        """
        with self._answer(_API + path, query) as answer:
            body = answer.read(_MAX_JSON_BYTES)
        try:
            content: dict[str, Any] = json.loads(body)
        except ValueError:
            raise TrackingError(f"{self.address} answers {path} without JSON; is it an MLflow server?") from None
        return content

    def download(self, run_id: str, path: str, target: Path, *, max_bytes: int) -> int:
        """Write the artifact `path` of a run to `target`; return its number of bytes.

        Raises:
            ArtifactError: the artifact has more than `max_bytes`.
            RegistryError: the run has no such artifact.
            StorageError: the disk is full.
            TrackingError: the server does not answer, or stops in the middle.
        """
        written = 0
        with self._answer("get-artifact", {"run_id": run_id, "path": path}) as answer, storage_errors(target):
            with target.open("wb") as file:
                while chunk := answer.read(_CHUNK_BYTES):
                    written += len(chunk)
                    if written > max_bytes:
                        raise ArtifactError(f"{path} of run {run_id} has more than the limit of {max_bytes:,} bytes")
                    file.write(chunk)
            # The rest of Content-Length: at an early end `read(n)` gives b"", where `read()` raises IncompleteRead.
            missing = answer.length or 0
        if missing:
            raise TrackingError(f"{self.address} stopped {missing:,} bytes before the end of {path}; it is tried again")
        return written

    @contextmanager
    def _answer(self, path: str, query: dict[str, str]) -> Iterator[HTTPResponse]:
        request = urllib.request.Request(f"{self.address}/{path}?{urlencode(query)}", headers=self._headers)
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                yield answer
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except (urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            raise TrackingError(f"{self.address} does not answer ({text}); it is tried again") from None

    def _refusal(self, error: urllib.error.HTTPError) -> RegistryError | TrackingError:
        """Return the error that an answer with an error status stands for, in one line."""
        with error:
            body = error.read(4096)  # enough for a message, and a foreign server cannot send without end
        try:
            content = json.loads(body)
            code, said = str(content["error_code"]), str(content["message"])
        except (ValueError, KeyError, TypeError):
            code, said = "", body.decode(errors="replace")
        said = " ".join(said.split())[:200] or str(error.reason)
        if code in _ABSENT:
            return RegistryError(f"{self.address}: {said}")
        if error.code == 401:
            remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            return TrackingError(f"{self.address} answers 401 ({said}); {remedy}")
        if error.code == 404:
            return TrackingError(f"{self.address} answers 404; is it the address of an MLflow server?")
        return TrackingError(f"{self.address} answers {error.code} ({said}); it is tried again")


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Handler that follows a redirect only to the same scheme, host and port, so that credentials go nowhere else."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            raise urllib.error.URLError(f"it redirects to {urlsplit(newurl).netloc}; give that address if it is meant")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _authorization(username: str | None, password: str | None) -> dict[str, str]:
    # A password goes before a token, as in MLflow's own client.
    username = os.environ.get("MLFLOW_TRACKING_USERNAME") or unquote(username or "")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD") or unquote(password or "")
    if username and password:
        pair = base64.b64encode(f"{username}:{password}".encode()).decode()
        return {"Authorization": f"Basic {pair}"}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}
