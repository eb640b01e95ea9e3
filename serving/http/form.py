"""Reader of the files in a body that is whole in memory: a multipart form (RFC 7578), or JSON with files in base64.

Starlette's form parser copies each file to a spooled temporary file and yields to the event loop in between: for a
small image that takes as long as decoding it.
"""

from __future__ import annotations

import pickletools
import re
from base64 import b64decode
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser, parse_options_header
from pydantic_core import from_json

from serving.http.responses import ApiError

IMAGE_FIELDS = ("image", "images")
"""Names of the fields that hold images: in a form a part of such a name is a file, whatever else it lacks."""
MAX_FIELDS = 64
"""Most parts of a form that are not files."""
MAX_NESTED = 2**16
"""Most lists and objects in a body of JSON. An empty one costs 56 bytes for the 3 it is sent in."""
_FILENAME_STAR = re.compile(r";\s*filename\*\s*=\s*([\w.-]+)'[^']*'([^\s;]+)", re.IGNORECASE)  # RFC 8187
_PICKLED = frozenset(
    ["PROTO", "FRAME", "EMPTY_DICT", "EMPTY_LIST", "MARK", "MEMOIZE", "SHORT_BINUNICODE", "SHORT_BINBYTES"]
)
_PICKLED |= {"BINBYTES", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "STOP"}
"""Tokens of a pickle of texts and bytes in dicts and lists; none of them looks up a name or calls anything."""
_DATA_URL = re.compile(r"data:[^,]{0,100};base64,")  # RFC 2397


class FormError(ApiError):
    """400: a body that cannot be parsed."""

    def __init__(self, message: str) -> None:
        super().__init__("bad_request", message)


class TooManyFilesError(ApiError):
    """413: more files than the caller takes."""

    def __init__(self, limit: int) -> None:
        super().__init__("too_many_images", f"more than {limit:,} images came; send fewer at a time")


@dataclass(frozen=True, slots=True)
class Upload:
    """One image as the client sent it."""

    data: bytes
    field: str = ""
    """Name of the form's field."""
    filename: str | None = None
    """File name that the client gave; empty if it gave none, None if there is no place for one."""
    is_tensor: bool = False
    """True if it is a raw tensor, and not an image file."""


def parse_files(content_type: str, body: bytes, max_files: int) -> list[Upload]:
    """Return the files of a form in order: the parts that have a file name, a content type other than text, or the name
    of an image's field.

    Other fields are left out.

    Raises:
        FormError: the form has no boundary, no end or a malformed part.
        TooManyFilesError: it has more than `max_files` files.
    """
    # Some clients capitalise `Boundary`; the value is case-sensitive.
    boundary = parse_options_header(content_type)[1].get("boundary", "")
    if not boundary:
        raise FormError("the form's content type has no boundary; let your HTTP library set the content type")
    files: list[Upload] = []
    num_fields = 0
    part: MultipartSegment | None = None
    chunks: list[bytes] = []
    try:
        # One part more than we take: then our own limits give the error, which names them.
        with PushMultipartParser(boundary, max_segment_count=max_files + MAX_FIELDS + 1) as parser:
            for event in parser.parse(body):
                if isinstance(event, MultipartSegment):
                    # Counted before its content: parsing stops here, not after thousands of further parts.
                    part, chunks = event, []
                    if not _is_file(part):
                        num_fields += 1
                    elif len(files) == max_files:
                        raise TooManyFilesError(max_files)
                    if num_fields > MAX_FIELDS:
                        raise FormError(f"the form has more than {MAX_FIELDS} fields")
                elif event is not None:
                    chunks.append(event)
                # None is the end of a part.
                elif part is not None and _is_file(part):
                    files.append(Upload(b"".join(chunks), part.name or "", _filename(part) or ""))
    except ParserLimitReached as error:
        raise FormError(f"the form is malformed: {error}") from None
    except MultipartError as error:
        raise FormError(_cause(str(error), boundary, body)) from None
    return files


def parse_json_files(body: bytes, max_files: int) -> list[Upload]:
    """Return the files of `{"image": BASE64}` or `{"images": [BASE64, ...]}`; each may be a `data:` URL.

    Raises:
        FormError: the body is no such JSON, or a value is no base64.
        TooManyFilesError: there are more than `max_files` files.
    """
    content = parse_json(body, max_values=2 * max_files + MAX_FIELDS)
    if not isinstance(content, dict) or len(named := [name for name in IMAGE_FIELDS if name in content]) != 1:
        raise FormError('the JSON is neither {"image": BASE64} nor {"images": [BASE64, ...]}')
    field = named[0]
    given = content[field]
    texts = given if isinstance(given, list) else [given]
    if len(texts) > max_files:
        raise TooManyFilesError(max_files)
    return [Upload(decode_base64(text, field), field) for text in texts]


def parse_pickled_files(body: bytes, max_files: int) -> list[Upload]:
    """Return the files of `{"image": bytes}` or `{"images": [bytes, ...]}` in the pickle that BentoML sends from one
    service of a Bento to another.

    The pickle is read as a row of tokens and never run: nothing but texts and bytes in a dict or a list is taken.

    Raises:
        FormError: the pickle holds anything else.
        TooManyFilesError: it holds more than `max_files` files.
    """
    files: list[Upload] = []
    field = ""
    try:
        for number, (token, value, _) in enumerate(pickletools.genops(body)):
            # A file is two tokens: its bytes, and their place in the memo.
            if token.name not in _PICKLED or number > 2 * max_files + MAX_FIELDS:
                raise FormError("the pickle is not that of image files; send a form")
            if isinstance(value, str):
                field = value
            elif isinstance(value, bytes):
                files.append(Upload(value, field))
    except ValueError as error:
        raise FormError(f"the pickle cannot be read: {error}") from None
    if len(files) > max_files:
        raise TooManyFilesError(max_files)
    return files


def parse_json(body: bytes, *, max_values: int) -> Any:
    """Parse JSON of at most about `max_values` values, with no more memory than a small multiple of its bytes.

    Raises:
        FormError: the body is no JSON, or has too many values.
    """
    # Counted in the bytes, before anything is made of them: 10 MB of `{},` would become 200 MB of objects. A comma in a
    # text counts as well; base64 has none.
    nested = body.count(b"{") + body.count(b"[")
    if body.count(b",") > max_values or nested > min(max_values, MAX_NESTED):
        raise FormError(
            f"the JSON has more than {max_values:,} values or too many lists; send numbers in one flat list"
        )
    try:
        return from_json(body, cache_strings="none")
    except ValueError as error:
        raise FormError(f"the body is no JSON: {error}") from None


def decode_base64(text: Any, name: str) -> bytes:
    """Return the bytes of base64, of a `data:` URL too.

    Raises:
        FormError: it is no base64; `name` says where.
    """
    if not isinstance(text, str):
        raise FormError(f"{name} is no text in base64")
    begin = _DATA_URL.match(text)
    try:
        return b64decode(text[begin.end() :] if begin else text, validate=True)
    except ValueError:
        raise FormError(f"{name} is not base64 (RFC 4648, section 4, without line feeds)") from None


def _is_file(part: MultipartSegment) -> bool:
    # Some clients send an image without a file name; its content type shows that it is no text field. A part without a
    # content type is text (RFC 7578, 4.4), unless its name says what it holds.
    text = not part.content_type or part.content_type.startswith("text/")
    return not text or part.name in IMAGE_FIELDS or _filename(part) is not None


def _filename(part: MultipartSegment) -> str | None:
    if part.filename is not None:
        return str(part.filename)
    found = _FILENAME_STAR.search(part.header("Content-Disposition") or "")
    if found is None:
        return None
    try:
        return unquote(found[2], found[1])
    except LookupError:  # no such character set
        return found[2]


def _cause(error: str, boundary: str, body: bytes) -> str:
    """Return why a form is malformed, with what is usually behind it."""
    delimiter = b"--" + boundary.encode()
    if delimiter not in body:
        begin = body[:60].split(b"\r\n")[0].decode(errors="replace")
        return f"the form has no part that begins with --{boundary[:70]}, its boundary; the body begins with {begin!r}"
    if "line break" in error:
        return f"the form is malformed: {error}; lines end with CR LF, not with LF alone"
    if "Unexpected end" in error:
        return "the form ends before its last boundary"
    return f"the form is malformed: {error}"
