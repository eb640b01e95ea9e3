"""Rows of tables: labels, splits and groups as the columns and the files say them, whatever holds the images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gapgate.data.leaks.groups import group_columns
from gapgate.data.sources.names import split_named, split_of, splits_of
from gapgate.data.sources.tables.columns import listed, plain
from gapgate.data.sources.tables.table_files import Table
from gapgate.errors import DataError

_SHARD = re.compile(r"(.+?)-\d{3,}-of-\d{3,}")  # a part of a split, as Hugging Face names it
_FLOAT = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+)([eE][+-]?\d+)?")
_FEWEST_NAMES = 10
"""Number of images from which on labels that all differ are no classes."""
_TRUE = ("1", "1.0", "true", "yes", "t", "y")


def with_splits(tables: Sequence[Table], root: Path) -> list[tuple[Table, str]]:
    """Pair each of several tables with the split that its name or folder stands for; a table alone has none.

    Raises:
        DataError: a table has no labels.
    """
    for table in tables:
        if not table.is_labelled:
            raise table.missing()
    found = splits_of_files([table.path for table in tables], root) if len(tables) > 1 else {}
    return [(table, found.get(table.path, "")) for table in tables]


def splits_of_files(paths: Iterable[Path], root: Path) -> dict[Path, str]:
    """The split that the name or the folder of each of several tables stands for (`train.csv`, `test/metadata.csv`,
    `train-00000-of-00002.parquet`, `mnist_test.csv` beside `mnist_train.csv`); empty: none."""
    stems = {path: shard[1] if (shard := _SHARD.match(path.stem)) else path.stem for path in paths}
    named = splits_of(stems.values())
    return {
        path: named.get(stem, "") or (split_of(path.parent.name) if path.parent != root else "")
        for path, stem in stems.items()
    }


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
            row["split"] = folds.get(row["split"], "") or _split_of_row(table, row["split"], where)
        yield where, {"split": split} | row, values


def notes_on(table: Table) -> Iterator[str]:
    """Say how a table was understood where that is no matter of course."""
    yield from _columns_note(table)
    yield from _groups_note(table)
    yield from _folds_note(table, _folds(table))


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


def _split_of_row(table: Table, value: str, where: str) -> str:
    """The split in a row's column: its name, or for a column such as `is_valid` whether it is that one."""
    name = plain(table.columns["split"])
    if name.startswith("is"):
        chosen = {"istrain": "train", "istest": "test"}.get(name, "val")
        # What is not `is_train` is test; what is not `is_valid` or `is_test` is train.
        return chosen if value.lower() in _TRUE else "test" if chosen == "train" else "train"
    return split_named(value, where)


def _folds(table: Table) -> dict[str, str]:
    """Fold → split, where the table numbers the folds of a cross-validation: the last one tests, the one before it
    validates. Empty: it does not."""
    theirs = table.columns.get("split")
    if theirs is None or plain(theirs).startswith("is"):
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
