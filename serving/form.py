"""The files of a multipart form (RFC 7578) that is whole in memory.

Starlette's form of the same parser spools each file to a temporary one and yields between them: for a small image that
takes as long as decoding it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FIELDS = 64
"""Parts of a form that are no files."""


class FormError(ValueError):
    """A form that cannot be parsed; the text says why."""


class TooManyFilesError(FormError):
    """More files than the caller takes."""


@dataclass(frozen=True, slots=True)
class FormFile:
    """One file."""

    field: str
    filename: str
    data: bytes


def parse_files(content_type: str, body: bytes, max_files: int) -> list[FormFile]:
    """The files of a form, in order: the parts with a file name, or with a content type that is no text. Its other
    fields are left out.

    Raises:
        FormError: no boundary, a malformed part, or more than `max_files` files.
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
    if not reader.ended:
        raise FormError("the form ends before its last boundary")
    return reader.files


class _Reader:
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
        if b"filename" not in options and (not self._type or self._type.startswith(b"text/")):
            self._num_fields += 1
            if self._num_fields > MAX_FIELDS:
                raise FormError(f"the form has more than {MAX_FIELDS} fields")
            return
        if len(self.files) == self._max_files:
            raise TooManyFilesError(f"the form has more than {self._max_files:,} files")
        field, filename = (options.get(key, b"").decode(errors="replace") for key in (b"name", b"filename"))
        self.files.append(FormFile(field, filename, b"".join(self._chunks)))

    def _end_form(self) -> None:
        self.ended = True
