"""Tables with a path and a label for each image, and optionally a group, a split and an id."""

from __future__ import annotations

import posixpath
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from gapgate.data.sources.base import FileReader, Record, Source, has_image_suffix, ordered_classes
from gapgate.data.sources.tables.files import Files
from gapgate.data.sources.tables.rows import notes_on, refuse_no_classes, rows_of, with_splits
from gapgate.data.sources.tables.table_files import Table
from gapgate.errors import DataError
from gapgate.hidden import is_hidden
from gapgate.text import shortened

_ROWS = "listed.sqlite"


def is_of_files(table: Table, root: Path) -> bool:
    """False for a table whose only path is a column `id` that names no file: a list of the classes has one too."""
    if table.images or table.columns.get("path", "").strip().lower() != "id":
        return True
    first = next(table.rows(), {"path": ""})["path"]
    return bool(first) and Files(root, table.path).find(first, str(table.path)) is not None


def open_tables(tables: Sequence[Table], root: Path, scratch: Path, unlabelled: Sequence[Table] = ()) -> Source:
    """Open the images that tables name; paths are relative to the folder of each table.

    Args:
        tables: more than one if the name of each file or folder stands for a split.
        root: folder that holds all of them.
        scratch: folder for the list of rows; the records need it.
        unlabelled: tables of images without labels, which are left out.

    Raises:
        DataError: a column is missing, a row has no path or label, a split is unknown, a path lies outside of `root`, a
            label has no file, or a file has no label.
    """
    notes: list[str] = []
    with_its_split = with_splits(tables, root)
    with closing(sqlite3.connect(scratch / _ROWS, isolation_level=None)) as db:
        # Each run makes this list anew, so a crash may cost it.
        db.execute("PRAGMA synchronous = OFF")
        db.execute(
            "CREATE TABLE rows (number INTEGER PRIMARY KEY, id TEXT, label TEXT, split TEXT, grp TEXT, path TEXT)"
        )
        db.execute("BEGIN")
        for table, split in with_its_split:
            notes += _fill(db, table, root, split)
        db.execute("CREATE INDEX by_path ON rows (path)")
        notes += _without_doubles(db, tables[0].path)
        if left_out := _refuse_unlabelled(db, tables[0].path, root, unlabelled):
            names = ", ".join(table.path.name for table in unlabelled)
            notes.append(f"{left_out:,} images that {names} names without labels are left out")
        labels = {label for (label,) in db.execute("SELECT DISTINCT label FROM rows")}
        (num_images,) = db.execute("SELECT COUNT(*) FROM rows").fetchone()
        # The records are read by other connections, which see only what is committed.
        db.execute("COMMIT")
    refuse_no_classes(tables[0], labels, num_images)
    class_names = ordered_classes(labels)
    records = partial(_records, scratch / _ROWS, class_names)
    return Source("table", class_names, FileReader(root), records, tuple(notes))


def _records(rows: Path, class_names: tuple[str, ...]) -> Iterator[Record]:
    labels = {name: label for label, name in enumerate(class_names)}
    with closing(sqlite3.connect(rows)) as db:
        for name, label, split, group, path in db.execute(
            "SELECT id, label, split, grp, path FROM rows ORDER BY number"
        ):
            yield Record(name or path, labels[label], split, group, path)


def _fill(db: sqlite3.Connection, table: Table, root: Path, split: str) -> list[str]:
    """Insert the rows of a table with the path of each file below `root`; return notes on how it was understood."""
    files = Files(root, table.path)
    missing, first_missing = 0, ""
    for where, row, _ in rows_of(table, split):
        if not (file := row.get("path", "")):
            raise DataError(f"{where} has no path; complete or drop the row")
        if (found := files.find(file, where)) is None:
            missing, first_missing = missing + 1, first_missing or file
            continue
        values = (row.get("id", ""), row["label"], row["split"], row.get("group", ""), found)
        db.execute("INSERT INTO rows (id, label, split, grp, path) VALUES (?, ?, ?, ?, ?)", values)
    if missing:
        first_missing = shortened(first_missing, 100)
        raise DataError(
            f"{table.path}: {missing:,} labels without a file, first {first_missing}; add the files or drop the rows"
        )
    return [*notes_on(table), *files.notes()]


def _without_doubles(db: sqlite3.Connection, path: Path) -> Iterator[str]:
    """Delete rows that say the same as an earlier one, and yield a note on it.

    Raises:
        DataError: two rows say different things of one image.
    """
    # Rows with ids of their own are images of their own, copies of which are found by their pixels.
    first = "SELECT MIN(number) FROM rows GROUP BY path, label, split, grp"
    doubles = db.execute(f"DELETE FROM rows WHERE id = '' AND number NOT IN ({first})").rowcount
    if doubles:
        yield f"{doubles:,} rows say the same as an earlier one and are left out"
    query = "SELECT path, label, split FROM rows WHERE id = '' AND path = ? ORDER BY number LIMIT 2"
    twice = "SELECT path FROM rows WHERE id = '' GROUP BY path HAVING COUNT(*) > 1"
    if count := db.execute(f"SELECT COUNT(*) FROM ({twice})").fetchone()[0]:
        (example,) = db.execute(f"{twice} ORDER BY MIN(number) LIMIT 1").fetchone()
        one, other = (" in ".join(filter(None, row[1:])) for row in db.execute(query, (example,)))
        raise DataError(
            f"{path}: {count:,} images have several rows, first {example} ({one}, and {other}); keep one row for each"
        )


def _refuse_unlabelled(db: sqlite3.Connection, path: Path, root: Path, unlabelled: Sequence[Table]) -> int:
    """Return the number of images that only the `unlabelled` tables name.

    Raises:
        DataError: an image in a folder that the tables use is in none of them.
    """
    # Folders that no table names may hold images of other data sets.
    db.create_function("folder", 1, posixpath.dirname, deterministic=True)
    db.execute("CREATE TEMP TABLE known (path TEXT PRIMARY KEY) WITHOUT ROWID")
    for table in unlabelled:
        files = Files(root, table.path)
        for row in table.rows():
            if file := row.get("path") and files.find(row["path"], str(table.path)):
                db.execute("INSERT OR IGNORE INTO known VALUES (?)", (file,))
    left_out, unlisted, first = 0, 0, ""
    for (folder,) in db.execute("SELECT DISTINCT folder(path) FROM rows ORDER BY 1").fetchall():
        for name in sorted(entry.name for entry in (root / folder).iterdir()):
            image = posixpath.join(folder, name)
            if not has_image_suffix(name) or is_hidden(name):
                continue
            if db.execute("SELECT 1 FROM rows WHERE path = ?", (image,)).fetchone():
                continue
            if db.execute("SELECT 1 FROM known WHERE path = ?", (image,)).fetchone():
                left_out += 1
            else:
                unlisted, first = unlisted + 1, first or image
    if unlisted:
        raise DataError(f"{path}: {unlisted:,} files without a label, first {first}; add rows or move the files out")
    return left_out
