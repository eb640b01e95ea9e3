"""Predictions by a server's `POST /v1/predict/batch`: a few requests in flight, each as large as the server takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from gapgate.errors import ServeError, SettingsError
from serving.client.prediction import BATCH_SIZE, Answerer, Row, read

_REQUESTS = 4
"""Requests in flight. The server works on a batch in each of its two threads, and on the next ones without a pause."""
_PART_BYTES = 256
"""Upper bound of the bytes that the headers of a file take in a form."""
_MAX_DROPS = 5
"""Dropped connections after which a request is given up."""
_MAX_BUSY_S = 120.0
"""Seconds after which a request to a busy server is given up."""
_MAX_WAIT_S = 30.0
"""Longest wait in seconds that a `Retry-After` can ask for."""
_BUSY = (429, 503)
"""Status codes to retry: too many requests, or a model that is not loaded yet."""
_REFUSED = (401, 403)


class Remote(Answerer):
    """A server at an address."""

    threads = _REQUESTS

    def __init__(self, url: str, *, key: str = "", top_k: int, batch_size: int | None = None) -> None:
        """Ask the server for its limits. `url` may lack its scheme, which is then http.

        Raises:
            ServeError: no server answers there, it is no server of Gapgate, it is not ready, or it refuses the key.
            SettingsError: the address or the key is malformed.
        """
        self._url = url if "://" in url else f"http://{url}"
        self._params = {"top_k": top_k}
        self._stopped = threading.Event()
        self._client = _client(self._url, key)
        try:
            card = self._card()
        except BaseException:
            self.close()
            raise
        self.no_answer = Row("", card["name"], card["version"], card["receipt"])
        self._max_bytes: int = card["input"]["max_body_bytes"]
        self._batch_size = min(batch_size or BATCH_SIZE, card["input"]["max_batch"])

    def batches(self, files: Iterable[Path]) -> Iterator[list[Path]]:
        """Yield the files in batches that one request may hold, by their number and by their bytes."""
        batch: list[Path] = []
        room = 0
        for file in files:
            size = _PART_BYTES + (file.stat().st_size if file.is_file() else 0)
            if batch and (len(batch) == self._batch_size or size > room):
                yield batch
                batch = []
            # A file larger than the limit becomes a batch of its own, and `answer` tells its error.
            if not batch:
                room = self._max_bytes - _PART_BYTES
            batch.append(file)
            room -= size
        if batch:
            yield batch

    def stop(self) -> None:
        """End the waits before retries, and give up each request at its next failure."""
        self._stopped.set()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def content(self, file: Path) -> bytes | str:
        """Return a file that the server takes, or the reason why it has no answer."""
        data = read(file)
        # Twice: the headers of the file, and the boundary at the end of the form.
        if isinstance(data, bytes) and len(data) + 2 * _PART_BYTES > self._max_bytes:
            limit = f"the server's limit of {self._max_bytes:,} bytes for a request"
            return f"{len(data):,} bytes exceed {limit}; predict without --url, or raise GAPGATE_MAX_BODY_BYTES there"
        return data

    def classify(self, images: list[bytes]) -> list[Row]:
        """Return a row for each image. A refused request is sent again in halves, until a bad file fails alone.

        Raises:
            ServeError: the server is gone, stays busy, or refuses the key.
        """
        if not images:
            return []
        # Numbers in the place of file names: those are nobody's business but the caller's.
        form = [("image", (str(index), data, "application/octet-stream")) for index, data in enumerate(images)]
        response = self._post(form)
        if response.status_code == 200:
            return _rows(self._json(response))
        problem = _problem(response)
        if response.status_code in _REFUSED:
            raise ServeError(_refusal(self._url, problem))
        if len(images) == 1:
            return [replace(self.no_answer, error=problem)]
        middle = len(images) // 2
        return self.classify(images[:middle]) + self.classify(images[middle:])

    def _post(self, form: list[Any]) -> httpx.Response:
        """Send a form and return the response; retry if the server is busy or the connection drops."""
        drops, busy_until = 0, time.monotonic() + _MAX_BUSY_S
        while True:
            try:
                response = self._client.post("/v1/predict/batch", params=self._params, files=form)
            except httpx.TransportError as error:
                # A retry is safe: a prediction changes nothing on the server.
                drops += 1
                if drops == _MAX_DROPS or self._stopped.is_set():
                    raise ServeError(f"{self._url} does not answer any more ({_words(error)}); try again") from None
                self._stopped.wait(0.1 * 2**drops)  # 0.2, 0.4, 0.8, 1.6 s; an event, because `stop` ends the wait
                continue
            if response.status_code not in _BUSY:
                return response
            if self._stopped.is_set() or time.monotonic() > busy_until:
                raise ServeError(f"{self._url} answers {response.status_code}: {_problem(response)}; try again later")
            self._stopped.wait(_retry_after(response))

    def _card(self) -> dict[str, Any]:
        """Return the answer of `GET /v1/model`."""
        try:
            response = self._client.get("/v1/model")
        except httpx.InvalidURL as error:
            raise SettingsError(f"--url {self._url}: {error}") from None
        except httpx.UnsupportedProtocol:
            raise SettingsError(f"--url {self._url}: give an address with http or https") from None
        except httpx.TransportError as error:
            remedy = "is its address right? `gapgate serve` starts one"
            raise ServeError(f"no server answers at {self._url} ({_words(error)}); {remedy}") from None
        if response.status_code in _REFUSED:
            raise ServeError(_refusal(self._url, _problem(response)))
        if response.status_code == 503:
            raise ServeError(f"{self._url} is not ready: {_problem(response)}")
        card = self._json(response)
        if response.status_code != 200 or not {"name", "version", "receipt", "input"} <= card.keys():
            raise ServeError(f"{self._url} is no server of Gapgate: /v1/model answers {response.status_code}")
        return card

    def _json(self, response: httpx.Response) -> dict[str, Any]:
        try:
            content = response.json()
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise ServeError(f"{self._url} is no server of Gapgate: it answers {response.status_code} without JSON")
        return content


def _client(url: str, key: str) -> httpx.Client:
    from serving.options import is_loopback

    if not (key.isascii() and key.isprintable()):
        raise SettingsError("the key holds characters that no header carries; --key or GAPGATE_API_KEY names another")
    try:
        return httpx.Client(
            base_url=url,
            headers={"X-API-Key": key} if key else None,
            timeout=httpx.Timeout(60.0, connect=10.0),
            limits=httpx.Limits(max_connections=_REQUESTS),
            trust_env=not is_loopback(httpx.URL(url).host),  # no proxy leads to this machine
        )
    except (httpx.InvalidURL, ValueError) as error:
        raise SettingsError(f"--url {url}: {error}") from None


def _rows(content: dict[str, Any]) -> list[Row]:
    # The model may be switched between two requests, so each row names the one that answered it.
    source = ("", content["model"]["name"], content["model"]["version"], content["receipt"])
    return [
        Row(*source, found.get("probabilities", {}), found.get("error", {}).get("message", ""))
        for found in content["results"]
    ]


def _problem(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.reason_phrase}"


def _refusal(url: str, problem: str) -> str:
    return f"{url} refuses: {problem} (--key KEY, or GAPGATE_API_KEY)"


def _retry_after(response: httpx.Response) -> float:
    """Return the seconds of `Retry-After`; 1 if the header is missing or a date."""
    try:
        # 0.1: a server that says 0 must not be asked in a busy loop.
        return min(max(float(response.headers.get("Retry-After", "1")), 0.1), _MAX_WAIT_S)
    except ValueError:
        return 1.0


def _words(error: httpx.TransportError) -> str:
    """Return the text of an error without its number: `[Errno 111] Connection refused` → `Connection refused`."""
    return str(error).partition("] ")[2] or str(error) or type(error).__name__
