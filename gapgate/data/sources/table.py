"""CSV or Parquet table with a row for each image: a path, a label, and optionally a group, a split and an id."""

from __future__ import annotations

import csv
import posixpath
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from gapgate.data.sources.base import (
    FileReader,
    Record,
    Source,
    has_image_suffix,
    is_hidden,
    ordered_classes,
    split_named,
)
from gapgate.errors import DataError

SUFFIXES = (".csv", ".parquet")
_NAMES = {
    "path": ("path", "file", "filename", "image"),
    "label": ("label", "class"),
    "group": ("group",),
    "split": ("split",),
    "id": ("id",),
}
"""Column → names that it may have, in upper or lower case; the first that is present is taken."""


class _Row(NamedTuple):
    number: int
    path: str
    label: str
    group: str
    split: str
    id: str


def has_columns(path: Path) -> bool:
    """True if the table has columns for paths and labels."""
    columns = _columns(_header(path))
    return "path" in columns and "label" in columns


def open_table(path: Path, scratch: Path) -> Source:
    """Open the images that a table names; paths are relative to the table's folder.

    Raises:
        DataError: a column is missing, a row has no path or label, a split is unknown, a path lies outside the table's
            folder, a label has no file, or a file has no label.
    """
    columns = _columns(_header(path))
    for name in ("path", "label"):
        if name not in columns:
            raise DataError(f"{path} has no column {name}; call it one of {', '.join(_NAMES[name])}")
    class_names = ordered_classes(_check(path, scratch))
    return Source("table", class_names, FileReader(path.parent), partial(_records, path, class_names))


def _records(path: Path, class_names: tuple[str, ...]) -> Iterator[Record]:
    labels = {name: label for label, name in enumerate(class_names)}
    for row in _rows(path):
        yield Record(row.id or row.path, labels[row.label], row.split, row.group, row.path)


def _check(path: Path, scratch: Path) -> set[str]:
    """Compare the table with the files, and return the labels that occur."""
    # The listed paths go into a file, because a table may have any number of them.
    labels: set[str] = set()
    missing, first_missing = 0, ""
    with closing(sqlite3.connect(scratch / "listed.sqlite", isolation_level=None)) as listed:
        listed.execute("PRAGMA synchronous = OFF")
        listed.execute("CREATE TABLE paths (path TEXT PRIMARY KEY, folder TEXT) WITHOUT ROWID")
        listed.execute("BEGIN")
        for row in _rows(path):
            labels.add(row.label)
            if (path.parent / row.path).is_file():
                folder = posixpath.dirname(row.path)
                listed.execute("INSERT OR IGNORE INTO paths VALUES (?, ?)", (row.path, folder))
            else:
                missing, first_missing = missing + 1, first_missing or row.path
        if missing:
            raise DataError(
                f"{path}: {missing:,} labels without a file, first {first_missing}; add the files or drop the rows"
            )
        _refuse_unlabelled(path, listed)
    return labels


def _refuse_unlabelled(path: Path, listed: sqlite3.Connection) -> None:
    """Raise a DataError if an image in a folder that the table uses is not in the table."""
    # Folders that the table never names may hold images of other data sets.
    unlisted, first = 0, ""
    for (folder,) in listed.execute("SELECT DISTINCT folder FROM paths ORDER BY folder"):
        for name in sorted(entry.name for entry in (path.parent / folder).iterdir()):
            image = posixpath.join(folder, name)
            if has_image_suffix(name) and not is_hidden(name):
                found = listed.execute("SELECT 1 FROM paths WHERE path = ?", (image,)).fetchone()
                if not found:
                    unlisted, first = unlisted + 1, first or image
    if unlisted:
        raise DataError(f"{path}: {unlisted:,} files without a label, first {first}; add rows or move the files out")


def _rows(path: Path) -> Iterator[_Row]:
    columns = _columns(_header(path))
    values = _parquet_rows(path, columns) if path.suffix.lower() == ".parquet" else _csv_rows(path, columns)
    for number, row in enumerate(values, start=1):
        where = f"{path}, row {number}"
        file, label = row.get("path", ""), row.get("label", "")
        if not file or not label:
            raise DataError(f"{where} has no {'label' if file else 'path'}; complete or drop the row")
        split = split_named(row["split"], where) if "split" in row else ""
        yield _Row(number, _inside(file, where), label, row.get("group", ""), split, row.get("id", ""))


def _inside(file: str, where: str) -> str:
    """Return the path without `.` and `..`; raise a DataError if it leaves the table's folder."""
    # Files outside of the folder are in no version of the data set; a table from elsewhere could name any file.
    inside = posixpath.normpath(file.replace("\\", "/"))
    if inside.startswith(("/", "../")) or inside == "..":
        raise DataError(f"{where}: {file} lies outside the table's folder; write paths relative to the table")
    return inside


def _columns(header: list[str]) -> dict[str, str]:
    """Map our name of each column to its name in the table."""
    there = {name.strip().lower(): name for name in header}
    found = ((ours, next((there[name] for name in names if name in there), None)) for ours, names in _NAMES.items())
    return {ours: theirs for ours, theirs in found if theirs is not None}


def _header(path: Path) -> list[str]:
    try:
        if path.suffix.lower() == ".parquet":
            return list(_parquet(path).schema_arrow.names)
        # utf-8-sig skips the byte order mark that Excel writes, which would become part of the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            return next(csv.reader(file), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error}); save it as such") from None


def _csv_rows(path: Path, columns: dict[str, str]) -> Iterator[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                yield {ours: (row[theirs] or "").strip() for ours, theirs in columns.items()}
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error}); save it as such") from None


def _parquet_rows(path: Path, columns: dict[str, str]) -> Iterator[dict[str, str]]:
    for batch in _parquet(path).iter_batches(batch_size=8192, columns=list(columns.values())):
        for row in batch.to_pylist():
            yield {ours: "" if row[theirs] is None else str(row[theirs]).strip() for ours, theirs in columns.items()}


def _parquet(path: Path) -> Any:
    import pyarrow  # takes half a second and 60 MB, which no other format needs
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is not a Parquet file ({str(error)[:80]}); save it again") from None
