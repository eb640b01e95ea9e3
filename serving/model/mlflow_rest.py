"""Client for a few GET requests to an MLflow server, on httpx: a Bento's environment has no mlflow."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx

from gapgate.errors import ArtifactError, RegistryError, SettingsError, TrackingError, storage_errors
from serving.options import is_loopback

_ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
"""MLflow's error codes for something that does not exist; for an alias it is the second, with status 400."""
_API = "api/2.0/mlflow/"
_FIRST_BYTE_S = 120.0
"""Longest wait for more of a file. Of a remote store, MLflow's server takes the whole file before it sends a byte."""
_ERRNO = re.compile(r"^\[Errno -?[0-9]+\] ")  # httpx keeps the beginning of Python's own text


class MlflowRest:
    """Client of one server, with the credentials that MLflow's own client takes: those in the address, or
    `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`, or `MLFLOW_TRACKING_TOKEN`."""

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
        auth, headers = _credentials(parts.username, parts.password)
        self._client = httpx.Client(
            auth=auth,
            # A compressed file would have another length than it says.
            headers={"Accept-Encoding": "identity", **headers},
            timeout=timeout_s,
            follow_redirects=True,
            event_hooks={"response": [_stay]},
            # For a proxy, 127.0.0.1 is the proxy's machine.
            trust_env=not is_loopback(parts.hostname or ""),
            # A poll is longer than the time for which MLflow's server keeps a connection.
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def get(self, path: str, /, **query: str) -> dict[str, Any]:
        """Return the answer of the REST API at `path`, such as `runs/get`.

        Raises:
            RegistryError: the server has no such object.
            TrackingError: the server does not answer, or not as an MLflow server does.
        """
        with self._answer(_API + path, query) as answer:
            body = answer.read()
        try:
            content: dict[str, Any] = json.loads(body)
        except ValueError:
            raise TrackingError(f"{self.address} answers {path} without JSON; is it an MLflow server?") from None
        return content

    def download(self, run_id: str, path: str, target: Path, *, max_bytes: int, has_digest: bool = False) -> int:
        """Write the artifact `path` of a run to `target`; return its number of bytes.

        A download that is cut off goes on from where it was, for as long as that brings more of the file. With
        `has_digest`, for a file whose digest the caller checks, it goes on from what an earlier call left in `target`.

        Raises:
            ArtifactError: the artifact has more than `max_bytes`.
            RegistryError: the run has no such artifact.
            StorageError: the disk is full.
            TrackingError: the server does not answer, or stops in the middle again and again.
        """
        query, timeout = {"run_id": run_id, "path": path}, httpx.Timeout(self._timeout_s, read=_FIRST_BYTE_S)
        with storage_errors(target), target.open("ab" if has_digest else "wb") as file:
            best, tag, missing = file.tell(), "", 1
            while missing:
                # `If-Range`: if the file is another one by now, it comes from its beginning. A digest tells that as
                # well, and each answer of a remote store has another tag.
                headers = {"Range": f"bytes={best}-"} if best and (has_digest or tag) else {}
                headers |= {"If-Range": tag} if headers and not has_digest else {}
                with self._answer("get-artifact", query, headers=headers, timeout=timeout) as answer:
                    if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                        break  # there is no more than what is here
                    if answer.status_code != httpx.codes.PARTIAL_CONTENT:
                        file.seek(0)
                        file.truncate()
                    tag = answer.headers.get("etag", "")
                    missing = self._receive(answer, file, max_bytes, f"{path} of run {run_id}")
                if missing and file.tell() <= best:
                    text = f"{self.address} stopped {missing:,} bytes before the end of {path}; it is tried again"
                    raise TrackingError(text)
                best = file.tell()
            return file.tell()

    def _receive(self, answer: httpx.Response, file: IO[bytes], max_bytes: int, what: str) -> int:
        """Write the body of an answer; return how many bytes of it did not come."""
        # A chunked body has no length: there only the exception tells of a cut.
        missing = int(answer.headers.get("content-length", 0))
        try:
            for chunk in answer.iter_raw():  # by a chunk size httpx would keep back, and lose, what came before a cut
                if file.tell() + len(chunk) > max_bytes:
                    raise ArtifactError(f"{what} has more than the limit of {max_bytes:,} bytes")
                file.write(chunk)
                missing -= len(chunk)
        except httpx.TransportError:
            return max(missing, 1)
        return max(missing, 0)

    @contextmanager
    def _answer(self, path: str, query: dict[str, str], **more: Any) -> Iterator[httpx.Response]:
        try:
            with self._client.stream("GET", f"{self.address}/{path}", params=query, **more) as answer:
                if answer.is_error and answer.status_code != httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                    raise self._refusal(answer)
                yield answer
        except httpx.RequestError as error:
            reason = _ERRNO.sub("", str(error)) or type(error).__name__
            raise TrackingError(f"{self.address} does not answer ({reason}); it is tried again") from None

    def _refusal(self, answer: httpx.Response) -> RegistryError | TrackingError:
        """Return the error that an answer with an error status stands for, in one line."""
        body = next(answer.iter_bytes(4096), b"")  # enough for a message, and a foreign server cannot send without end
        try:
            content = json.loads(body)
            code, said = str(content["error_code"]), str(content["message"])
        except (ValueError, KeyError, TypeError):
            code, said = "", body.decode(errors="replace")
        said = " ".join(said.split())[:200] or answer.reason_phrase
        if code in _ABSENT:
            return RegistryError(f"{self.address}: {said}; `gapgate models` lists what is there")
        if answer.status_code == 401:
            remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            return TrackingError(f"{self.address} answers 401 ({said}); {remedy}")
        if answer.status_code == 404:
            return TrackingError(f"{self.address} answers 404; is it the address of an MLflow server?")
        return TrackingError(f"{self.address} answers {answer.status_code} ({said}); it is tried again")


def _stay(answer: httpx.Response) -> None:
    """Refuse a redirect to another scheme, host or port: credentials go nowhere else."""
    if answer.has_redirect_location:
        there, here = answer.url.join(answer.headers["location"]), answer.url
        if (there.scheme, there.netloc) != (here.scheme, here.netloc):
            text = f"it redirects to {there.netloc.decode()}; give that address if it is meant"
            raise httpx.UnsupportedProtocol(text)


def _credentials(username: str | None, password: str | None) -> tuple[tuple[str, str] | None, dict[str, str]]:
    """Return user and password, or the header with a token."""
    # As in MLflow's own client: the address goes before the variables, a password before a token.
    username = unquote(username or "") or os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = unquote(password or "") or os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if username and password:
        return (username, password), {}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return None, {"Authorization": f"Bearer {token}"} if token else {}
