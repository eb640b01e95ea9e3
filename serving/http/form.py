"""Parser for the files of a multipart form (RFC 7578) that is whole in memory.

Starlette's form parser, on the same library, copies each file to a spooled temporary file and yields to the event loop
in between: for a small image that takes as long as decoding it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FIELDS = 64
"""Most parts of a form that are not files."""


class FormError(ValueError):
    """Error for a form that cannot be parsed; its text gives the reason."""


class TooManyFilesError(FormError):
    """Error for a form with more files than the caller takes."""


@dataclass(frozen=True, slots=True)
class FormFile:
    """A file in a form."""

    field: str
    """Name of the form's field."""
    filename: str
    """File name that the client gave; empty if it gave none."""
    data: bytes
    """Content of the file."""


def parse_files(content_type: str, body: bytes, max_files: int) -> list[FormFile]:
    """Return the files of a form in order: the parts that have a file name, or a content type other than text.

    Other fields are left out.

    Raises:
        FormError: the form has no boundary, no end or a malformed part, or more than `max_files` files.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not boundary:
        raise FormError("the form's content type has no boundary")
    reader = _Reader(max_files)
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise FormError(f"the form is malformed: {error}") from None
    # `finalize` accepts a body that was cut off.
    if not reader.ended:
        raise FormError("the form ends before its last boundary")
    return reader.files


class _Reader:
    """Collects the files of a form from the callbacks of `MultipartParser`.

    A callback with data gets the buffer, a start and an end. One name, value or file can come in several pieces.
    """

    def __init__(self, max_files: int) -> None:
        self.files: list[FormFile] = []
        self.ended = False
        self._max_files = max_files
        self._num_fields = 0
        self._name = self._value = self._disposition = self._type = b""
        self._chunks: list[bytes] = []

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._field,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._end_form,
        }

    def _begin(self) -> None:
        # Headers and data of the part before must not stay: a part may lack a content type.
        self._disposition = self._type = b""
        self._chunks = []

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        name = self._name.lower()
        if name == b"content-disposition":
            self._disposition = self._value
        elif name == b"content-type":
            self._type = self._value.strip().lower()
        self._name = self._value = b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._chunks.append(data[start:end])

    def _end(self) -> None:
        options = parse_options_header(self._disposition)[1]
        # Some clients send an image without a file name; its content type shows that it is no text field. A part
        # without a content type is text (RFC 7578, 4.4).
        if b"filename" not in options and (not self._type or self._type.startswith(b"text/")):
            self._num_fields += 1
            if self._num_fields > MAX_FIELDS:
                raise FormError(f"the form has more than {MAX_FIELDS} fields")
            return
        # Raised within the parser: it stops here and does not parse thousands of further parts.
        if len(self.files) == self._max_files:
            raise TooManyFilesError(f"the form has more than {self._max_files:,} files")
        field, filename = (options.get(key, b"").decode(errors="replace") for key in (b"name", b"filename"))
        self.files.append(FormFile(field, filename, b"".join(self._chunks)))

    def _end_form(self) -> None:
        self.ended = True
