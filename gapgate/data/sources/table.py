"""Tables with a row for each image: a path, a label, and optionally a group, a split and an id."""

from __future__ import annotations

import posixpath
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from gapgate.data.leaks.groups import group_columns
from gapgate.data.sources.base import FileReader, Record, Source, has_image_suffix, ordered_classes
from gapgate.data.sources.columns import listed
from gapgate.data.sources.files import Files
from gapgate.data.sources.names import split_named, split_of, splits_of
from gapgate.data.sources.table_files import Table
from gapgate.errors import DataError
from gapgate.hidden import is_hidden
from gapgate.text import shortened

_ROWS = "listed.sqlite"
_SHARD = re.compile(r"(.+?)-\d{3,}-of-\d{3,}")
_FLOAT = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+)([eE][+-]?\d+)?")
_FEWEST_NAMES = 10
"""Number of images from which on labels that all differ are no classes."""
_TRUE = ("1", "1.0", "true", "yes", "t", "y")


def splits_of_files(paths: Iterable[Path], root: Path) -> dict[Path, str]:
    """The split that the name or the folder of each of several tables stands for (`train.csv`, `test/metadata.csv`,
    `train-00000-of-00002.parquet`, `mnist_test.csv` beside `mnist_train.csv`); empty: none."""
    stems = {path: shard[1] if (shard := _SHARD.match(path.stem)) else path.stem for path in paths}
    named = splits_of(stems.values())
    return {
        path: named.get(stem, "") or (split_of(path.parent.name) if path.parent != root else "")
        for path, stem in stems.items()
    }


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
    for table in tables:
        if not table.is_labelled:
            raise table.missing()
    notes: list[str] = []
    with closing(sqlite3.connect(scratch / _ROWS, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute(
            "CREATE TABLE rows (number INTEGER PRIMARY KEY, id TEXT, label TEXT, split TEXT, grp TEXT, path TEXT)"
        )
        db.execute("BEGIN")
        of_files = splits_of_files([table.path for table in tables], root) if len(tables) > 1 else {}
        for table in tables:
            notes += _fill(db, table, root, of_files.get(table.path, ""))
        db.execute("CREATE INDEX by_path ON rows (path)")
        notes += _without_doubles(db, tables[0].path)
        if left_out := _refuse_unlabelled(db, tables[0].path, root, unlabelled):
            names = ", ".join(table.path.name for table in unlabelled)
            notes.append(f"{left_out:,} images that {names} names without labels are left out")
        labels = {label for (label,) in db.execute("SELECT DISTINCT label FROM rows")}
        (num_images,) = db.execute("SELECT COUNT(*) FROM rows").fetchone()
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


def rows_of(table: Table, split: str, more: Sequence[str] = ()) -> Iterator[tuple[str, dict[str, str], dict[str, Any]]]:
    """Stream a table's rows: where each stands for a message, its cells by our names with the split, which is `split`
    where the table has none, and its values as they are stored, those of the columns `more` too.

    Raises:
        DataError: a row has no label, or a split is unknown.
    """
    folds = _folds(table)
    names = list(dict.fromkeys([*table.columns.values(), *table.one_hot, *more]))
    for number, values in enumerate(table.values(names), start=1):
        where = f"{table.path}, row {number}"
        row = table.cells(values, number)
        if not row["label"]:
            raise DataError(f"{where} has no label; complete or drop the row")
        if "split" in row:
            row["split"] = folds.get(row["split"], "") or split_of_row(table, row["split"], where)
        yield where, {"split": split} | row, values


def notes_on(table: Table) -> Iterator[str]:
    """Say how a table was understood where that is no matter of course."""
    yield from _columns_note(table)
    yield from _groups_note(table)
    yield from _folds_note(table, _folds(table))


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


def split_of_row(table: Table, value: str, where: str) -> str:
    """The split in a row's column: its name, or for a column such as `is_valid` whether it is that one."""
    name = re.sub(r"[\W_]+", "", table.columns["split"].lower())
    if name.startswith("is"):
        chosen = {"istrain": "train", "istest": "test"}.get(name, "val")
        return chosen if value.lower() in _TRUE else "test" if chosen == "train" else "train"
    return split_named(value, where)


def _folds(table: Table) -> dict[str, str]:
    """Fold → split, where the table numbers the folds of a cross-validation: the last one tests, the one before it
    validates. Empty: it does not."""
    theirs = table.columns.get("split")
    if theirs is None or re.sub(r"[\W_]+", "", theirs.lower()).startswith("is"):
        return {}
    numbers = {str(row[theirs]).strip() for row in table.values([theirs]) if row.get(theirs) is not None}
    if len(numbers) < 2 or not all(number.isdecimal() for number in numbers):
        return {}
    first, *others = sorted(numbers, key=int, reverse=True)
    held_out = {first: "test"} | ({others[0]: "val"} if len(others) > 1 else {})
    return dict.fromkeys(numbers, "train") | held_out


def _columns_note(table: Table) -> Iterator[str]:
    """Say which columns were taken, where not all of them are called as we do."""
    is_usual = all(ours == theirs.strip().lower() for ours, theirs in table.columns.items())
    if not table.has_header or not is_usual or table.one_hot:
        known = ("path", "label", "group", "split", "id")
        taken = [f"{ours} from {table.columns[ours]}" for ours in known if ours in table.columns]
        if table.one_hot:
            taken.append(f"label from the 1 in {listed(table.one_hot)}")
        yield f"{table.path.name}: {', '.join(taken)}"


def _groups_note(table: Table) -> Iterator[str]:
    """Offer the columns that look like groups, where none is taken as `group`."""
    offered = [name for name in group_columns(table.header) if name not in table.columns.values()]
    if offered and "group" not in table.columns:
        yield f"{table.path.name}: call the column {' or '.join(offered)} `group` if its images belong in one split"


def _folds_note(table: Table, folds: dict[str, str]) -> Iterator[str]:
    if folds:
        held_out = ", ".join(f"fold {fold} is {split}" for fold, split in folds.items() if split != "train")
        yield f"{table.path.name}: {table.columns['split']} numbers {len(folds)} folds; {held_out}, the others train"


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


def refuse_no_classes(table: Table, labels: set[str], num_images: int) -> None:
    """Raise a DataError if the labels are no classes: a name for each image, or measurements, which are numbers, some
    of them with a fraction."""
    if table.one_hot:
        return
    if len(labels) == num_images >= _FEWEST_NAMES:
        raise DataError(
            f"{table.path}: the column {table.columns['label']} has another value for each of the {num_images:,} "
            "images, as their names or numbers, and no classes; take another --label-column"
        )
    if all(_FLOAT.fullmatch(label) for label in labels):
        fractions = sorted((label for label in labels if not float(label).is_integer()), key=float)
        if fractions:
            raise DataError(
                f"{table.path}: the column {table.columns['label']} holds {len(labels):,} different numbers, such as "
                f"{fractions[0]}, and no classes; name each range of them, or take another --label-column"
            )
