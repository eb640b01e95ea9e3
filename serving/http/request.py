"""One HTTP request, as the endpoints see it: headers, query, body and files."""

from __future__ import annotations

import asyncio
import re
import secrets
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.types import Receive, Scope

from gapgate.data.formats import FORMATS
from gapgate.text import size
from serving.description.route import Parameter
from serving.http.form import Upload, parse_files, parse_json_files, parse_pickled_files
from serving.http.responses import JSON_TYPE, ApiError
from serving.options import Options

if TYPE_CHECKING:
    from serving.http.work import Work

FORM_TYPE = "multipart/form-data"
PICKLE_TYPE = "application/vnd.bentoml+pickle"
FILES_TYPES = (FORM_TYPE, JSON_TYPE, PICKLE_TYPE)
"""Types of bodies that hold files."""
TENSOR_TYPE = "application/octet-stream"
IMAGE_TYPES = tuple(form.media_type for form in FORMATS if form.is_served)
"""Media types that every server takes."""
KNOWN_IMAGE_TYPES = frozenset(name for form in FORMATS for name in (form.media_type, *form.other_media_types))
"""Media types of every known format, also under other names (`image/jpg`): whether this server takes it is said of the
file itself."""
MAX_PARAMETERS = 64
_QUALITY = re.compile(r"[01](\.[0-9]{0,3})?")  # RFC 9110, 12.4.2
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


class ClientGoneError(Exception):
    """Error for a client that closed its connection; nobody reads an answer."""


class Request:
    """Headers, query and body of a request."""

    def __init__(self, scope: Scope, receive: Receive, options: Options, work: Work) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.path_parameters: dict[str, str] = {}
        """The parts of the path that stand for the parameters of its route, by their names."""
        self.scheme: str = scope["scheme"]
        self.http_version: str = scope.get("http_version", "1.1")
        # None for a Unix socket.
        self.client_host: str = scope["client"][0] if scope.get("client") else ""
        # ASGI gives the names in small letters; of a repeated header the last one counts.
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.options = options
        self._query_string: bytes = scope["query_string"]
        self._receive = receive
        self._work = work
        self._body_read = False
        self.received = 0
        """Bytes of the body that have arrived."""
        self.notes: dict[str, Any] = {}
        """Facts that the handlers tell the log: model, receipt, class, error."""
        # Only harmless characters: the id goes into a header of the answer and into the log.
        given = self.headers.get(b"x-request-id", b"")
        self.id = given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)

    @property
    def has_unread_body(self) -> bool:
        """True if a part of the body may still be unread on the connection."""
        if self._body_read:
            return False
        return self.headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in self.headers

    def header(self, name: str) -> str:
        """Return the value of a header; empty if it is missing."""
        # White space around a value is no part of it (RFC 9110, 5.5); httptools leaves that behind it.
        return self.headers.get(name.encode(), b"").decode("latin-1").strip(" \t")

    @cached_property
    def _query(self) -> dict[str, list[str]]:
        try:
            text = self._query_string.decode("ascii")
            return (
                parse_qs(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS) if text else {}
            )
        except ValueError:
            message = f"the query string cannot be read; send at most {MAX_PARAMETERS} parameters, in UTF-8"
            raise ApiError("invalid_parameter", message) from None

    def check_names(self, known: tuple[Parameter, ...]) -> None:
        """Refuse query parameters that are not `known` here: mistyped ones and those of other routes.

        Raises:
            ApiError: 422, with the names that are known.
        """
        for name in self._query:
            if name not in (names := [parameter.name for parameter in known]):
                listed = ", ".join(names) or "none"
                raise ApiError("invalid_parameter", f"{name[:40]} is no parameter here; there are: {listed}")

    def parameter(self, parameter: Parameter) -> Any:
        """Return the value of a query parameter, as its schema has it; its default, or None, if it is missing.

        Raises:
            ApiError: 422, it is given twice or has a value of another kind.
        """
        name, kind = parameter.name, parameter.schema["type"]
        values = self._query.get(name)
        if values is None:
            return parameter.schema.get("default")
        if len(values) > 1:
            raise ApiError("invalid_parameter", f"{name} is given {len(values)} times; give it once")
        (text,) = values
        if kind == "boolean":
            if text not in ("true", "false"):
                raise ApiError("invalid_parameter", f"{name}={text[:40]} is neither true nor false")
            return text == "true"
        if kind == "integer":
            limit = parameter.schema["maximum"]
            # `int` alone would take signs, spaces, underscores and digits of other scripts. The length comes first,
            # because `int` raises ValueError for more than 4,300 digits.
            if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= limit):
                raise ApiError("invalid_parameter", f"{name}={text[:40]} is no whole number from 1 to {limit}")
            return int(text)
        return text

    def prefers(self, content_type: str, other: str) -> bool:
        """True if the client prefers `content_type` to `other` by its `Accept` header (RFC 9110, 12.5.1)."""
        qualities: dict[str, float] = {}
        for entry in self.header("accept").split(","):
            name, *parameters = entry.replace(" ", "").lower().split(";")
            quality = next((text[2:] for text in parameters if text.startswith("q=")), "1")
            qualities[name] = float(quality) if _QUALITY.fullmatch(quality) else 0.0

        def quality_of(wanted: str) -> float:
            # The most specific range counts, even if a wider one has a higher quality.
            names = (wanted, wanted.partition("/")[0] + "/*", "*/*")
            return next((qualities[name] for name in names if name in qualities), 0.0)

        return quality_of(content_type) > quality_of(other)

    @property
    def content_type(self) -> str:
        """Media type of the body in lower case, without parameters."""
        return self.header("content-type").partition(";")[0].strip().lower()

    async def body(self) -> bytes:
        """Receive the whole body.

        Raises:
            ApiError: 413, the body is too large (at once if its length is announced); 429, too many uploads are
                unfinished; 408, it does not arrive in time; 415, it is compressed.
            ClientGoneError: the connection closed before the end of the body.
        """
        if (encoding := self.header("content-encoding")) not in ("", "identity"):
            text = f"Content-Encoding {encoding[:40]} is not accepted; send the body as it is"
            raise ApiError("unsupported_media_type", text, {"Accept-Encoding": "identity"})
        limit = self.options.max_body_bytes
        announced = self.headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced) > limit:
            raise _too_large(limit)
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self.options.timeout_s):
                while not self._body_read:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    chunks.append(message.get("body", b""))
                    self.received += len(chunks[-1])
                    self._work.buffered_bytes += len(chunks[-1])
                    # A chunked body announces no length, so its bytes are counted.
                    if self.received > limit:
                        raise _too_large(limit)
                    self._body_read = not message.get("more_body")
                    # Only for a body that is not complete: one that is complete frees its bytes by being worked on.
                    if not self._body_read and self._work.buffered_bytes > self.options.max_buffered_bytes:
                        raise ApiError("overloaded", "too many uploads at once; try again later", {"Retry-After": "1"})
                return b"".join(chunks)
        except TimeoutError:
            text = f"the body did not arrive within {self.options.timeout_s:g} s; send all of its Content-Length"
            raise ApiError("upload_timeout", text) from None
        finally:
            # On every way out; from here on the slots of `Work` bound the memory.
            self._work.buffered_bytes -= self.received

    async def drain(self, seconds: float) -> None:
        """Receive the rest of the body and throw it away, until nothing comes for `seconds`.

        A close with unread bytes would be a reset, and the client could lose the answer.
        """
        with suppress(TimeoutError):
            while not self._body_read:
                async with asyncio.timeout(seconds):
                    message = await self._receive()
                self._body_read = not message.get("more_body")

    async def gone(self) -> None:
        """Wait until the client closes its connection; the body must have been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def files(self, max_files: int) -> list[Upload]:
        """Receive the files of a body of one of `FILES_TYPES`.

        Raises:
            ApiError: 400, the form cannot be parsed; 413, it has too many files; and those of `body`.
        """
        body = await self.body()
        if self.content_type == JSON_TYPE:
            return parse_json_files(body, max_files)
        if self.content_type == PICKLE_TYPE:
            return parse_pickled_files(body, max_files)
        return parse_files(self.header("content-type"), body, max_files)


def _too_large(limit: int) -> ApiError:
    return ApiError("body_too_large", f"the body exceeds {size(limit)}; send a smaller image")
