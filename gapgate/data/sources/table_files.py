"""Tables on disk, row by row: CSV with any usual separator, tab-separated, JSON lines and Parquet."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gapgate.data.sources.base import IMAGE_SUFFIXES, has_image_suffix
from gapgate.errors import DataError
from gapgate.settings.sections import Reading
from gapgate.text import shortened

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_NAMES = {
    "path": (
        *("path", "file", "filename", "filepath", "image", "imagepath", "imagefile", "imagename", "img", "imgpath"),
        *("imgname", "imageid", "imgid", "photo", "picture"),
    ),
    "label": (
        *("label", "labels", "labelname", "class", "classname", "target", "category", "categoryname", "classid"),
        *("labelid", "categoryid", "finelabel", "y"),
    ),
    "group": ("group", "groupid"),
    "split": ("split", "subset", "fold", "set", "partition", "usage", "isvalid", "isval", "istrain", "istest"),
    "id": ("id",),
}
"""Column → names that it may have, in the order in which they are tried; case, spaces and underscores do not count."""
_USUAL = {"path": "path, file, filename, image, image_id", "label": "label, class, target, category"}
_SHOWN_COLUMNS = 20
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
    class_names: tuple[str, ...] = ()
    """Names of the labels 0, 1, … where the file has them (Hugging Face's `ClassLabel`)."""

    @property
    def is_labelled(self) -> bool:
        """True if it has paths or images, and labels."""
        return bool(self.images or "path" in self.columns) and "label" in self.columns

    def missing(self) -> DataError:
        """The error that names the column which was not found, those that there are, and how to answer."""
        what = "label" if self.images or "path" in self.columns else "path"
        listed = ", ".join(self.header[:_SHOWN_COLUMNS]) + (", …" if len(self.header) > _SHOWN_COLUMNS else "")
        if not listed:
            return DataError(f"{self.path} is empty; write a row with the columns' names, and one for each image")
        if not self.has_header:
            return DataError(
                f"{self.path} has no header, its first row is {listed}: which columns are path and label? "
                "Answer with --path-column 1 --label-column 2"
            )
        return DataError(
            f"{self.path} has no column {what}; call it one of {_USUAL[what]}, "
            f"or name yours with --{what}-column (its columns are {listed})"
        )

    def rows(self) -> Iterator[dict[str, str]]:
        """Stream the rows: our name of each column → its text."""
        for number, row in enumerate(self.values(list(self.columns.values())), start=1):
            yield {ours: self.text(row.get(theirs), theirs, number) for ours, theirs in self.columns.items()}

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
            # Image bytes make a row large, other rows are small.
            yield from _parquet_rows(self.path, names, 64 if self.images in names else 8192)
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
        header = list(next(_json_rows(path), {}))
        return Table(path, tuple(header), _columns(path, header, reading))
    separator, first = _first_row(path)
    # A header names columns, and so holds no name of an image file.
    if not any(has_image_suffix(cell) or _is_image(path.parent, cell) for cell in first):
        return Table(path, tuple(first), _columns(path, first, reading), separator)
    numbers = [str(number) for number in range(1, len(first) + 1)]
    chosen = {"path": reading.path_column, "label": reading.label_column}
    columns = {ours: number for ours, number in chosen.items() if number in numbers}
    return Table(path, tuple(first), columns, separator, has_header=False)


def _is_image(folder: Path, stem: str) -> bool:
    """True if the folder has an image of that name, which lacks the extension."""
    return any((folder / f"{stem}{suffix}").is_file() for suffix in IMAGE_SUFFIXES)


def _columns(path: Path, header: list[str], reading: Reading) -> dict[str, str]:
    """Map our name of each column to its name in the table."""
    there = {_plain(name): name for name in reversed(header)}
    found = {}
    for ours, names in _NAMES.items():
        if theirs := next((there[name] for name in names if name in there), None):
            found[ours] = theirs
    for ours, chosen in (("path", reading.path_column), ("label", reading.label_column)):
        if not chosen:
            continue
        if _plain(chosen) in there:
            found[ours] = there[_plain(chosen)]
        elif chosen.isdecimal() and 0 < int(chosen) <= len(header):
            found[ours] = header[int(chosen) - 1]
        else:
            raise DataError(f"{path} has no column {chosen}; it has {', '.join(header)}: name one with --{ours}-column")
    for ours in ("path", "label"):
        if header.count(found.get(ours, "")) > 1:
            raise DataError(f"{path} has {header.count(found[ours])} columns {found[ours]}; rename all but one")
    # Kaggle's tables of `id` and label: the id is the file's name.
    if "path" not in found and "id" in found:
        found["path"] = found.pop("id")
    # One column serves one purpose; that of the user's choice before that of a usual name.
    taken = {found[ours] for ours in ("path", "label") if ours in found}
    return {ours: theirs for ours, theirs in found.items() if ours in ("path", "label") or theirs not in taken}


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", str(name).lower())


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
    lines = _lines(path)
    line = next(lines, "")
    if named := _SEP_LINE.match(line):
        return named[1], [cell.strip() for cell in next(csv.reader(lines, delimiter=named[1]), [])]
    rows = {sep: next(csv.reader([line], delimiter=sep, skipinitialspace=True), []) for sep in _SEPARATORS}
    separator = max(_SEPARATORS, key=lambda sep: len(rows[sep]))
    return separator, [cell.strip() for cell in rows[separator]]


def _csv_rows(table: Table) -> Iterator[dict[str, Any]]:
    names = list(table.header) if table.has_header else [str(number + 1) for number in range(len(table.header))]
    try:
        lines = (line for number, line in enumerate(_lines(table.path)) if number or not _SEP_LINE.match(line))
        rows = csv.reader(lines, delimiter=table.separator, skipinitialspace=True)
        if table.has_header:
            next(rows, None)
        for row in rows:
            if any(map(str.strip, row)):  # spreadsheets write rows of separators below the last one
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
    import pyarrow

    schema = _parquet(path).schema_arrow
    columns = _columns(path, schema.names, reading)
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    kinds = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, dict)}
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    if "label" not in columns and labels:
        columns["label"] = labels[0]
    images = [field.name for field in schema if _holds_images(field.type, pyarrow)]
    if columns.get("path") not in images and reading.path_column:
        images = []
    names = features.get(columns.get("label"), {}) if images else {}
    if images:
        columns.pop("path", None)
    return Table(
        path,
        tuple(schema.names),
        columns,
        images=images[0] if images else "",
        class_names=tuple(names.get("names", ())) if isinstance(names, dict) else (),
    )


def _holds_images(kind: Any, pyarrow: Any) -> bool:
    """True for a column of bytes, or of Hugging Face's pairs of bytes and path."""
    types = pyarrow.types
    if types.is_struct(kind):
        return any(kind.field(index).name == "bytes" for index in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _parquet(path: Path) -> Any:
    import pyarrow  # takes half a second and 60 MB, which no other format needs
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise _not_parquet(path, error) from None


def _parquet_rows(path: Path, names: list[str], batch_size: int) -> Iterator[dict[str, Any]]:
    import pyarrow

    try:
        for batch in _parquet(path).iter_batches(batch_size=batch_size, columns=names):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:  # damaged behind the header
        raise _not_parquet(path, error) from None


def _not_parquet(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is not a Parquet file, or damaged ({str(error)[:80]}); save it again")
