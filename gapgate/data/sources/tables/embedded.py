"""Parquet files that hold the images themselves, as Hugging Face's data sets do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from gapgate.data.sources.base import EncodedReader, Record, Source, ordered_classes
from gapgate.data.sources.tables.rows import notes_on, refuse_no_classes, rows_of, with_splits
from gapgate.data.sources.tables.table_files import Table
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
    with_its_split = with_splits(tables, root)
    names = {table.class_names for table in tables}
    if len(names) > 1:
        raise DataError(f"the Parquet files in {root} name different classes; take files of one data set")
    blob = scratch / "images.bin"
    with blob.open("wb") as out:
        rows = [row for table, split in with_its_split for row in _copied(table, root, out, split)]
    found = {row.label for row in rows}
    refuse_no_classes(tables[0], found, len(rows))
    class_names, labels = _classes(names.pop() if is_named else (), found)
    notes = tuple(note for table in tables for note in notes_on(table))
    return Source("images in Parquet", class_names, BytesReader(blob), partial(_records, rows, labels), notes)


def _copied(table: Table, root: Path, out: Any, split: str) -> Iterator[_Row]:
    """Copy the images of a table, whose rows are of `split` where none is named, to `out`, and yield its rows."""
    for number, (_, cells, row) in enumerate(rows_of(table, split, [table.images])):
        data = row[table.images]
        data = (data.get("bytes") if isinstance(data, dict) else data) or b""
        name = f"{table.path.relative_to(root).with_suffix('')}/{number:06d}"
        yield _Row(name, cells["label"], cells["split"], cells.get("group", ""), out.tell(), len(data))
        out.write(data)


def _classes(given: tuple[str, ...], labels: set[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes and the index of each label: the names of the file where its labels are numbers, which then count
    its names even where those are numbers too; else the labels."""
    if given and all(label.isdecimal() and int(label) < len(given) for label in labels):
        return given, {label: int(label) for label in labels}
    class_names = ordered_classes(labels)
    return class_names, {name: label for label, name in enumerate(class_names)}


def _records(rows: Sequence[_Row], labels: dict[str, int]) -> Iterator[Record]:
    for row in rows:
        yield Record(row.id, labels[row.label], row.split, row.group, f"{row.offset}:{row.num_bytes}")
