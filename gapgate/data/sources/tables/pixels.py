"""Tables with the pixels in them: in a column each (`label, pixel0, …, pixel783`), or all in one as text (FER-2013)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapgate.data.sources.arrays import Block, Part, array_source
from gapgate.data.sources.base import Source
from gapgate.data.sources.tables.rows import notes_on, refuse_no_classes, rows_of, with_splits
from gapgate.data.sources.tables.table_files import Table
from gapgate.errors import DataError
from gapgate.text import shortened


def open_pixels(
    tables: Sequence[Table],
    root: Path,
    scratch: Path,
    class_names: tuple[str, ...] | None,
    unlabelled: Sequence[Table] = (),
) -> Source:
    """Open tables with columns of pixels, which are copied into files in `scratch` to be read in any order.

    Args:
        tables: more than one if the name of each file or folder stands for a split.
        root: folder that holds all of them.
        scratch: folder for the pixels; the source needs it as long as it is in use.
        class_names: as `array_source` takes them.
        unlabelled: tables without labels, which are left out.

    Raises:
        DataError: a table has no labels, a label is missing, a split is unknown, or the pixels of a row are no square
            image of whole numbers from 0 to 255.
    """
    parts = [
        _part(table, root, split, scratch / f"pixels-{number}.bin")
        for number, (table, split) in enumerate(with_splits(tables, root))
    ]
    labels = {str(label) for part in parts for label in np.unique(part.labels)}
    refuse_no_classes(tables[0], labels, sum(len(part.labels) for part in parts))
    notes = [note for table in tables for note in notes_on(table)]
    notes += [_shape_note(table, part) for table, part in zip(tables, parts, strict=True)]
    notes += [f"{table.path.name} has no labels and is left out" for table in unlabelled if table.pixels]
    return replace(array_source("pixels in a table", parts, class_names), notes=tuple(notes))


def _part(table: Table, root: Path, split: str, target: Path) -> Part:
    """Copy the pixels of a table, whose rows are of `split` where none is named, to `target`."""
    labels, groups, splits = [], [], []
    size = 0
    with target.open("wb") as out:
        for where, cells, values in rows_of(table, split, table.pixels):
            row = _bytes([values.get(name) for name in table.pixels], where)
            if size and len(row) != size:
                raise DataError(f"{where} has {len(row):,} pixels, and those before it {size:,}; complete or drop it")
            size = len(row)
            out.write(row.tobytes())
            labels.append(cells["label"])
            groups.append(cells.get("group", ""))
            splits.append(cells["split"])
    if not labels:
        raise DataError(f"{table.path} has no rows; write one for each image")
    block = Block(target, 0, len(labels), size, _shape(size, table))
    # 18 digits always fit into int64; longer ones are names, such as hashes.
    are_numbers = all(len(label) < 19 and label.isdecimal() for label in labels)
    codes = np.array(labels, np.int64) if are_numbers else np.array(labels)
    name = table.path.relative_to(root).with_suffix("").as_posix()
    return Part(name, "", block, codes, np.array(groups), np.array(splits) if any(splits) else None)


def _bytes(cells: list[Any], where: str) -> NDArray[np.uint8]:
    """The pixels (N,) of a row: a cell each, or one cell with a text or a list of all, or of its lines."""
    found = cells[0] if len(cells) == 1 else cells
    if isinstance(found, str):
        found = found.strip("[] ").replace(",", " ").split()
    try:
        values = np.asarray(found, np.float64)
        rounded = np.clip(np.floor(values), 0, 255)
        # Not right: fractions, values out of range, and NaN, which is unequal to itself.
        is_right = values.ndim in (1, 2) and bool((rounded == values).all())
    except (TypeError, ValueError):
        is_right = False
    if not is_right:
        wrong = next((value for value in found if not _is_pixel(value)), found) if isinstance(found, list) else found
        said = "an empty cell" if wrong in (None, "") else shortened(repr(wrong), 40)
        raise DataError(f"{where}: {said} is no pixel; write whole numbers from 0 (black) to 255, or drop the row")
    return rounded.astype(np.uint8).ravel()


def _is_pixel(value: Any) -> bool:
    try:
        return 0 <= float(value) <= 255 and float(value).is_integer()
    except (TypeError, ValueError):
        return False


def _shape(size: int, table: Table) -> tuple[int, ...]:
    """The shape of a square image of `size` values: gray, or with three for each pixel."""
    for channels in ((), (3,)):
        side = math.isqrt(size // math.prod(channels))
        if side and side * side * math.prod(channels) == size:
            return (side, side, *channels)
    raise DataError(
        f"{table.path} has {size:,} pixels in a row, which are no square of gray or of red, green and blue; "
        "name the column of labels with --label-column if it was taken for a pixel, or save the images as files"
    )


def _shape_note(table: Table, part: Part) -> str:
    height, width, *channels = part.images.shape
    kind = "red, green and blue of each pixel together" if channels else "gray"
    return f"{table.path.name}: images of {height} × {width} pixels, row by row, {kind}"
