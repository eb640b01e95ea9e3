"""Parquet files that hold the images themselves, as Hugging Face's data sets do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from gapgate.data.sources.base import EncodedReader, Record, Source, ordered_classes
from gapgate.data.sources.table import refuse_numbers, split_of_file, split_of_row
from gapgate.data.sources.table_files import Table
from gapgate.errors import DataError, ImageError, ImageFault


class _Row(NamedTuple):
    id: str
    label: str
    split: str
    group: str
    offset: int
    num_bytes: int


class BytesReader(EncodedReader):
    """Reader of image files that lie one behind the other in the file `path`; the locator is `offset:bytes`."""

    __slots__ = ()

    def encoded(self, locator: str) -> bytes:
        offset, num_bytes = map(int, locator.split(":"))
        if not num_bytes:
            raise ImageError(ImageFault.EMPTY, "the row holds no image", "drop the row")
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(num_bytes)


def open_embedded(tables: Sequence[Table], root: Path, scratch: Path, *, is_named: bool = True) -> Source:
    """Open Parquet files with a column of image bytes, which are copied into one file in `scratch` to be read in any
    order. Unless `is_named`, the classes stay numbers.

    Raises:
        DataError: a file has no labels, a label is missing, a split is unknown, or the files name other classes.
    """
    for table in tables:
        if not table.is_labelled:
            raise table.missing()
    names = {table.class_names for table in tables}
    if len(names) > 1:
        raise DataError(f"the Parquet files in {root} name different classes; take files of one data set")
    blob = scratch / "images.bin"
    with blob.open("wb") as out:
        rows = [row for table in tables for row in _copied(table, root, out, len(tables) > 1)]
    found = {row.label for row in rows}
    refuse_numbers(tables[0], found)
    class_names = _class_names(names.pop() if is_named else (), found)
    labels = _labels(class_names, found)
    return Source("images in Parquet", class_names, BytesReader(blob), partial(_records, rows, labels))


def _copied(table: Table, root: Path, out: Any, is_split_by_file: bool) -> Iterator[_Row]:
    """Copy the images of a table to `out`, and yield its rows."""
    of_file = split_of_file(table.path, root) if is_split_by_file else ""
    columns = list(dict.fromkeys([table.images, *table.columns.values()]))
    for number, row in enumerate(table.values(columns)):
        where = f"{table.path}, row {number + 1}"
        cells = {ours: table.text(row[theirs], theirs, number + 1) for ours, theirs in table.columns.items()}
        if not cells["label"]:
            raise DataError(f"{where} has no label; complete or drop the row")
        split = split_of_row(table, cells["split"], where) if "split" in cells else of_file
        data = row[table.images]
        data = (data.get("bytes") if isinstance(data, dict) else data) or b""
        name = f"{table.path.relative_to(root).with_suffix('')}/{number:06d}"
        yield _Row(name, cells["label"], split, cells.get("group", ""), out.tell(), len(data))
        out.write(data)


def _class_names(given: tuple[str, ...], labels: set[str]) -> tuple[str, ...]:
    """The names of the file where its labels are numbers, else the labels."""
    if given and all(label.isdecimal() and int(label) < len(given) for label in labels):
        return given
    return ordered_classes(labels)


def _labels(class_names: tuple[str, ...], labels: set[str]) -> dict[str, int]:
    known = {name: label for label, name in enumerate(class_names)}
    return {label: known[label] if label in known else int(label) for label in labels}


def _records(rows: Sequence[_Row], labels: dict[str, int]) -> Iterator[Record]:
    for row in rows:
        yield Record(row.id, labels[row.label], row.split, row.group, f"{row.offset}:{row.num_bytes}")
