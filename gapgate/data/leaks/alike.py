"""Near-duplicates that are in the splits, beside each other: as a table and a picture.

near_duplicates.json    columns and a row for each image, set by set, in the form of MLflow's tables
near_duplicates.png     the first sets, also as dark/near_duplicates.png; both are missing without near-duplicates
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gapgate.artifacts import read_json, write_json
from gapgate.data.image_table import Index
from gapgate.data.leaks.groups import merged
from gapgate.data.tiles import Colours, save_sheets, tile
from gapgate.text import shortened

TABLE, PICTURE = "near_duplicates.json", "near_duplicates.png"
MAX_ROWS = 10_000
"""Largest number of images in the table."""
MAX_SETS = 24
"""Largest number of sets in the picture."""
_TILES = 4
"""Number of images of a set in the picture."""
_TILE_PX, _GAP_PX, _MARGIN_PX, _WIDTH_PX, _NAME_CHARS, _LINES = 64, 6, 12, 760, 52, 3


class _Member(NamedTuple):
    row: int
    image: str
    class_name: str
    split: str


def write_alike(folder: Path, index: Index, class_names: Sequence[str]) -> dict[str, int]:
    """Write both files into `folder`; return the number of images, of sets, and of sets with two classes or more, which
    come first: one of their labels is wrong, or the classes overlap.

    Args:
        folder: holds `images.npy` already.
        index: table of the images with their splits, and their near-duplicates in `near`.
        class_names: names of the classes, in label order.
    """
    sets = _sets(index, class_names)
    mixed = [each for each in sets if len({member.class_name for member in each}) > 1]
    counts = {"images": sum(map(len, sets)), "sets": len(sets), "mixed_sets": len(mixed)}
    if not sets:
        return counts
    rows = [[number, *member[1:]] for number, each in enumerate(sets, start=1) for member in each]
    write_json(folder / TABLE, {"columns": ["set", "image", "class", "split"], "data": rows[:MAX_ROWS]})
    images = np.load(folder / "images.npy", mmap_mode="r")
    shown = sets[:MAX_SETS]
    tiles = [[images[member.row] for member in each[:_TILES]] for each in shown]
    save_sheets(partial(_sheet, shown, tiles), folder / PICTURE)
    return counts


def read(splits: Path, max_rows: int = 200) -> dict[str, Any]:
    """Read the number of near-duplicates in a Splits artifact, of their sets and of the sets with several classes, and
    the first images as rows of set, name, class and split."""
    counts: Mapping[str, int] = read_json(splits / "splits.json").get("near_duplicates", {})
    rows = read_json(splits / TABLE, {"data": []})["data"]
    return {f"num_{name}": counts.get(name, 0) for name in ("images", "sets", "mixed_sets")} | {"rows": rows[:max_rows]}


def _sets(index: Index, class_names: Sequence[str]) -> list[list[_Member]]:
    """Sets of images that are tied by near-duplicates, those of several classes first, then the largest."""
    # `near` has each pair in both orders.
    pairs = index.lines(
        "SELECT near.one, near.other FROM near JOIN images AS one ON one.row = near.one "
        "JOIN images AS other ON other.row = near.other WHERE near.one < near.other "
        "AND one.split IN ('train', 'val', 'test') AND other.split IN ('train', 'val', 'test')"
    )
    found: dict[str, list[int]] = defaultdict(list)
    # The key of a set is the least of its rows as text; twelve digits make the order of texts that of numbers.
    for row, key in merged([], list(pairs), "{:012}".format).items():
        found[key].append(row)
    sets = []
    for rows in found.values():
        # `_without_chains` keeps a set at MAX_ALIKE rows, far below the 32,766 parameters that SQLite takes.
        query = f"SELECT row, id, label, split FROM images WHERE row IN ({', '.join('?' * len(rows))}) ORDER BY row"
        sets.append(
            [_Member(row, name, class_names[label], split) for row, name, label, split in index.lines(query, *rows)]
        )
    return sorted(sets, key=lambda each: (len({member.class_name for member in each}) == 1, -len(each), each[0].row))


def _sheet(
    sets: Sequence[Sequence[_Member]], images: Sequence[Sequence[NDArray[np.uint8]]], colours: Colours
) -> Image.Image:
    """Draw a line for each set: pictures of its first images, and their classes and names."""
    text = ImageFont.load_default(12)
    step = _TILE_PX + _GAP_PX
    left = 2 * _MARGIN_PX + step * max(map(len, images))
    sheet = Image.new("RGB", (_WIDTH_PX, 2 * _MARGIN_PX + step * len(sets) - _GAP_PX), colours.paper)
    draw = ImageDraw.Draw(sheet)
    for number, (members, pictures) in enumerate(zip(sets, images, strict=True)):
        top = _MARGIN_PX + step * number
        for place, image in enumerate(pictures):
            sheet.paste(tile(image, _TILE_PX, _TILE_PX), (_MARGIN_PX + step * place, top))
        lines = [shortened(f"{each.class_name}: {each.image}", _NAME_CHARS) for each in members]
        if len(lines) > _LINES:
            lines[_LINES - 1 :] = [f"… and {len(lines) - _LINES + 1} more"]
        for place, line in enumerate(lines):
            middle = top + _TILE_PX * (place + 0.5) / len(lines)
            ink = colours.ink if place == 0 or members[place].class_name != members[0].class_name else colours.faint
            draw.text((left, middle), line, ink, text, anchor="lm")
    return sheet
