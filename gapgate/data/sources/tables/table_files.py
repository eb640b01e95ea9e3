"""Tables on disk, row by row: CSV with any usual separator, tab-separated, JSON lines and Parquet."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from gapgate.data.sources.base import IMAGE_SUFFIXES, has_image_suffix
from gapgate.data.sources.tables import parquet
from gapgate.data.sources.tables.columns import FEWEST_PIXELS, USUAL, listed, pixel_columns, understood
from gapgate.errors import DataError
from gapgate.settings.sections import Reading
from gapgate.text import shortened

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_LONGEST_CELL = 1 << 24
"""Characters of a cell in a CSV file, where Python's limit of 131,072 is less than an image written as text."""
_FLAGS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
"""Text of a cell in a column that says whether an image is of that class."""
_FIRST_ROWS = 1000
"""Number of rows by which such columns are recognised."""
_SEPARATORS = ",;\t|"
_SEP_LINE = re.compile(r"\s*\"?sep=(.)\"?\s*$", re.IGNORECASE)
"""The line by which a file tells Excel its separator."""


@dataclass(frozen=True, slots=True)
class Table:
    """Table with the columns that are taken from it."""

    path: Path
    header: tuple[str, ...]
    """Names of all columns; the numbers from 1 if the file has no header."""
    columns: dict[str, str]
    """Our name of a column (path, label, group, split, id) → its name in the table."""
    separator: str = ","
    has_header: bool = True
    images: str = ""
    """Column whose values are image files (Parquet); empty: none."""
    pixels: tuple[str, ...] = ()
    """Columns that hold a pixel each, or the one that holds all pixels as text; `()` if the images are elsewhere."""
    one_hot: tuple[str, ...] = ()
    """Columns that are classes, with a 1 in that of the image and a 0 in the others, in place of a column of labels."""
    class_names: tuple[str, ...] = ()
    """Names of the labels 0, 1, … where the file has them (Hugging Face's `ClassLabel`)."""

    @property
    def is_labelled(self) -> bool:
        """True if it has paths or images, and labels."""
        return self.has_images and bool("label" in self.columns or self.one_hot)

    @property
    def has_images(self) -> bool:
        """True if it has images or their paths."""
        return self.holds_images or "path" in self.columns

    @property
    def holds_images(self) -> bool:
        """True if the images are in it, as files or as pixels."""
        return bool(self.images or self.pixels)

    def missing(self) -> DataError:
        """The error that names the column which was not found, those that there are, and how to answer."""
        what = "label" if self.has_images else "path"
        shown = listed(self.header)
        if not shown:
            return DataError(f"{self.path} is empty; write a row with the columns' names, and one for each image")
        if self.pixels and not self.has_header:
            return DataError(
                f"{self.path} has no header, its first row is {shown}: which column is the label, beside the pixels? "
                "Answer with --label-column 1"
            )
        if not self.has_header:
            return DataError(
                f"{self.path} has no header, its first row is {shown}: which columns are path and label? "
                "Answer with --path-column 1 --label-column 2"
            )
        names, rows = _flag_columns(self) if self.has_images else ((), [])
        if several := [number for number, flags in enumerate(rows, start=1) if len(names) > 1 and sum(flags) > 1]:
            chosen = [name for name, flag in zip(names, rows[several[0] - 1], strict=True) if flag]
            return self._not_one(several[0], chosen, names)
        return DataError(
            f"{self.path} has no column {what}; call it one of {USUAL[what]}, "
            f"or name yours with --{what}-column (its columns are {shown})"
        )

    def rows(self) -> Iterator[dict[str, str]]:
        """Stream the rows: our name of each column → its text."""
        for number, row in enumerate(self.values([*self.columns.values(), *self.one_hot]), start=1):
            yield self.cells(row, number)

    def cells(self, row: dict[str, Any], number: int) -> dict[str, str]:
        """The text of row `number` by our names of the columns.

        Raises:
            DataError: a cell holds no single value, or not just one of the classes has a 1.
        """
        found = {ours: self.text(row.get(theirs), theirs, number) for ours, theirs in self.columns.items()}
        if self.one_hot:
            flags = [_FLAGS.get(_text(row.get(name)).lower()) for name in self.one_hot]
            chosen = [name for name, flag in zip(self.one_hot, flags, strict=True) if flag]
            if len(chosen) != 1 or None in flags:
                raise self._not_one(number, chosen, self.one_hot)
            found["label"] = chosen[0]
        return found

    def _not_one(self, number: int, chosen: Sequence[str], names: Sequence[str]) -> DataError:
        return DataError(
            f"{self.path}, row {number}: a 1 is in {listed(chosen) or 'none'} of the columns {listed(names)}; an "
            "image has one class, with a 1 in its column and 0 in all others: correct or drop the row, or name a "
            "column of labels with --label-column"
        )

    def text(self, value: Any, column: str, number: int) -> str:
        """The text of a cell in row `number`.

        Raises:
            DataError: the cell holds a list or a structure.
        """
        if isinstance(value, bytes):
            value = value.decode("utf-8", "backslashreplace")
        if isinstance(value, (list, dict)):
            raise DataError(
                f"{self.path}, row {number}: {column} holds {shortened(str(value), 40)}, and no single value; "
                "write one path and one label a row, or name other columns with --path-column and --label-column"
            )
        return _text(value)

    def values(self, names: list[str]) -> Iterator[dict[str, Any]]:
        """Stream the rows with the columns `names`, values as they are stored."""
        if self.path.suffix.lower() == ".parquet":
            # Images make a row large, other rows are small.
            is_large = not {self.images, *self.pixels}.isdisjoint(names)
            yield from parquet.rows(self.path, names, 64 if is_large else 8192)
        elif self.path.suffix.lower() == ".jsonl":
            yield from _json_rows(self.path)
        else:
            yield from _csv_rows(self)


def read_table(path: Path, reading: Reading) -> Table:
    """Read the header of a table, and find the columns that are needed.

    Raises:
        DataError: the file is no table, or has no column of a name that `reading` gives.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_table(path, reading)
    if suffix == ".jsonl":
        # A row may lack a key.
        header = list(dict.fromkeys(key for row in islice(_json_rows(path), _FIRST_ROWS) for key in row))
        return _with_pixels(Table(path, tuple(header), understood(path, header, reading)))
    separator, first = _first_row(path)
    # A header names columns, and so holds no name of an image file.
    # A first row of many numbers is the first image, of a table of pixels without a header.
    is_of_pixels = len(first) > FEWEST_PIXELS and all(map(_is_number, first))
    if not is_of_pixels and not any(has_image_suffix(cell) or _is_image(path.parent, cell) for cell in first):
        return _with_pixels(Table(path, tuple(first), understood(path, first, reading), separator))
    numbers = [str(number) for number in range(1, len(first) + 1)]
    chosen = {"path": reading.path_column, "label": reading.label_column}
    columns = {ours: number for ours, number in chosen.items() if number in numbers}
    pixels = tuple(number for number in numbers if number not in columns.values()) if is_of_pixels else ()
    return Table(path, tuple(first), columns, separator, has_header=False, pixels=pixels)


def _with_pixels(table: Table) -> Table:
    """A table with its columns of pixels where it names no files, and with those of its classes where it has no
    labels."""
    if not table.has_images:
        table = replace(table, pixels=pixel_columns(table.header))
    if "label" in table.columns or not table.has_images:
        return table
    names, rows = _flag_columns(table)
    # A table of properties has a 1 in several of its columns.
    num_single = sum(sum(flags) == 1 for flags in rows)
    return replace(table, one_hot=names) if len(names) > 1 and 2 * num_single >= len(rows) else table


def _flag_columns(table: Table) -> tuple[tuple[str, ...], list[list[bool]]]:
    """The columns without another purpose that hold 0 and 1 alone, and their values in the first rows."""
    taken = {*table.columns.values(), table.images, *table.pixels}
    others = [name for name in table.header if name not in taken]
    if len(others) < 2 or not table.has_header:
        return (), []
    rows = [
        [_FLAGS.get(_text(row.get(name)).lower()) for name in others]
        for row in islice(table.values(others), _FIRST_ROWS)
    ]
    kept = [at for at in range(len(others)) if rows and all(row[at] is not None for row in rows)]
    return tuple(others[at] for at in kept), [[bool(row[at]) for at in kept] for row in rows]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_image(folder: Path, stem: str) -> bool:
    """True if the folder has an image of that name, which lacks the extension."""
    return any((folder / f"{stem}{suffix}").is_file() for suffix in IMAGE_SUFFIXES)


def _text(value: Any) -> str:
    is_missing = value is None or value != value  # NaN, which pandas writes for a missing value
    return "" if is_missing else str(value).strip()


def _encoding(path: Path) -> str:
    # utf-8-sig skips the byte order mark that Excel writes, which would become part of the first column's name; its
    # "Unicode text" is UTF-16, with a mark too.
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _not_csv(path: Path, error: object) -> DataError:
    return DataError(f"{path} is not a CSV file in UTF-8 ({error}); save it as such")


def _lines(path: Path) -> Iterator[str]:
    """Stream the lines that are not empty.

    Raises:
        DataError: the file is no text.
    """
    try:
        with path.open(newline="", encoding=_encoding(path)) as file:
            for line in file:
                if "\0" in line:  # UTF-16 without its mark, or no text
                    raise _not_csv(path, "it holds NUL bytes")
                if line.strip():
                    yield line
    except UnicodeError as error:
        raise _not_csv(path, error) from None


def _first_row(path: Path) -> tuple[str, list[str]]:
    """The separator, that which the file names or by which its first line has most cells, and the cells."""
    csv.field_size_limit(_LONGEST_CELL)
    lines = _lines(path)
    line = next(lines, "")
    if named := _SEP_LINE.match(line):
        return named[1], [cell.strip() for cell in next(csv.reader(lines, delimiter=named[1]), [])]
    # Without `skipinitialspace`, quotes after a space belong to the cell: `a, "b, c"` would have three cells.
    rows = {sep: next(csv.reader([line], delimiter=sep, skipinitialspace=True), []) for sep in _SEPARATORS}
    # `max` takes the first of several that are equal: a file of one column has commas.
    separator = max(_SEPARATORS, key=lambda sep: len(rows[sep]))
    return separator, [cell.strip() for cell in rows[separator]]


def _csv_rows(table: Table) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(_LONGEST_CELL)
    names = list(table.header) if table.has_header else [str(number + 1) for number in range(len(table.header))]
    try:
        lines = (line for number, line in enumerate(_lines(table.path)) if number or not _SEP_LINE.match(line))
        rows = csv.reader(lines, delimiter=table.separator, skipinitialspace=True)
        if table.has_header:
            next(rows, None)
        for row in rows:
            if any(map(str.strip, row)):  # spreadsheets write rows of separators below the last one
                # Not strict: cells that a short row lacks are empty, and those that a long one has too many belong to
                # no column.
                yield dict(zip(names, row, strict=False))
    except csv.Error as error:
        raise _not_csv(table.path, error) from None


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                if not isinstance(row := json.loads(line), dict):
                    raise DataError(f"{path}, line {number} is no JSON object; write one a line")
                yield row
    except (ValueError, RecursionError) as error:  # of JSON and of Unicode
        raise DataError(f"{path} is not JSON lines in UTF-8 ({error}); write one object a line") from None


def _parquet_table(path: Path, reading: Reading) -> Table:
    schema = parquet.opened(path).schema_arrow
    columns = understood(path, schema.names, reading)
    # Hugging Face writes the types of its columns as JSON into the metadata of the schema; a ClassLabel has the names.
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    kinds = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, dict)}
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    if "label" not in columns and labels:
        columns["label"] = labels[0]
    images = [field.name for field in schema if parquet.holds_images(field.type)]
    if columns.get("path") not in images and reading.path_column:
        images = []
    names = features.get(columns.get("label"), {}) if images else {}
    if images:
        columns.pop("path", None)
    table = Table(
        path,
        tuple(schema.names),
        columns,
        images=images[0] if images else "",
        class_names=tuple(names.get("names", ())) if isinstance(names, dict) else (),
    )
    return _with_pixels(table)
