"""Images that a data set has and no split: unreadable files, copies and contradictory labels, as a table and a picture.

set_aside.json    columns and a row for each image, in the form of MLflow's tables
set_aside.png     the first of them that could be decoded, also as dark/set_aside.png; missing if none could
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gapgate.artifacts import read_json, write_json
from gapgate.data.image_table import Index
from gapgate.data.tiles import Colours, save_sheets, tile
from gapgate.text import shortened

TABLE, PICTURE = "set_aside.json", "set_aside.png"
MAX_ROWS = 10_000
"""Largest number of images in the table; `index.parquet` has all of them."""
MAX_PICTURES = 24
UNUSABLE, COPY, CONFLICT = "cannot be used", "copy", "label conflict"

_TILE_PX, _GAP_PX, _MARGIN_PX, _WIDTH_PX, _NAME_CHARS, _REASON_CHARS = 64, 6, 12, 760, 60, 90


class SetAside(NamedTuple):
    """One image that is in no split."""

    image: str
    class_name: str
    """Name of its class; empty where it was not read."""
    kind: str
    reason: str
    row: int
    """Row of `images.npy`; -1 for an image that could not be decoded."""


def write_set_aside(
    folder: Path, index: Index, class_names: Sequence[str], left_out: Sequence[Mapping[str, str]]
) -> dict[str, int]:
    """Write both files into `folder`, none if every image is in a split; return kind → number of images.

    Args:
        folder: holds `images.npy` already.
        index: table of the images, with their splits and reasons.
        class_names: names of the classes, in label order.
        left_out: name and reason of each file that ingest could not take.
    """
    counts: Counter[str] = Counter()
    listed: list[SetAside] = []
    for each in _all(index, class_names, left_out):
        counts[each.kind] += 1
        if len(listed) < MAX_ROWS:
            listed.append(each)
    if not listed:
        return {}
    columns = ["image", "class", "set aside as", "reason"]
    write_json(folder / TABLE, {"columns": columns, "data": [each[:4] for each in listed]})
    if shown := [each for each in listed if each.row >= 0][:MAX_PICTURES]:
        images = np.load(folder / "images.npy", mmap_mode="r")
        tiles = [images[each.row] for each in shown]
        save_sheets(partial(_sheet, shown, tiles), folder / PICTURE)
    return dict(counts)


def read(splits: Path, max_rows: int = 200) -> dict[str, Any]:
    """Read the number of images set aside in a Splits artifact, and the first of them as rows of name, class, kind and
    reason."""
    rows = read_json(splits / TABLE, {"data": []})["data"]
    return {"num_images": sum(read_json(splits / "splits.json").get("set_aside", {}).values()), "rows": rows[:max_rows]}


def in_words(counts: Mapping[str, int]) -> str:
    """Count the images in half a sentence, such as `5 set aside (3 copies, 2 cannot be used)`; empty without any."""
    if not counts:
        return ""
    plurals = {COPY: "copies", CONFLICT: "label conflicts"}
    parts = [f"{count:,} {plurals.get(kind, kind) if count > 1 else kind}" for kind, count in sorted(counts.items())]
    return f"{sum(counts.values()):,} set aside ({', '.join(parts)})"


def _all(index: Index, class_names: Sequence[str], left_out: Sequence[Mapping[str, str]]) -> Iterator[SetAside]:
    for each in left_out:
        yield SetAside(each["name"], "", UNUSABLE, each["reason"], -1)
    query = "SELECT id, label, split, reason, row FROM images WHERE split NOT IN ('train', 'val', 'test') ORDER BY row"
    for name, label, split, reason, row in index.lines(query):
        if split == "quarantined":
            yield SetAside(name, class_names[label], UNUSABLE, reason, -1)
        else:
            # The table of the images has only the words, those of `partition._drop_conflicts`.
            kind = CONFLICT if "another label" in reason else COPY
            yield SetAside(name, class_names[label], kind, reason, row)


def _sheet(shown: Sequence[SetAside], images: Sequence[NDArray[np.uint8]], colours: Colours) -> Image.Image:
    """Draw a line for each image: its picture, its name with its class, and the reason."""
    text, small = ImageFont.load_default(14), ImageFont.load_default(12)
    step = _TILE_PX + _GAP_PX
    sheet = Image.new("RGB", (_WIDTH_PX, 2 * _MARGIN_PX + step * len(shown) - _GAP_PX), colours.paper)
    draw = ImageDraw.Draw(sheet)
    left = _MARGIN_PX + _TILE_PX + _MARGIN_PX
    for number, (each, image) in enumerate(zip(shown, images, strict=True)):
        top = _MARGIN_PX + step * number
        sheet.paste(tile(image, _TILE_PX, _TILE_PX), (_MARGIN_PX, top))
        middle = top + _TILE_PX / 2
        draw.text((left, middle - 3), shortened(each.image, _NAME_CHARS), colours.ink, text, anchor="lb")
        reason = shortened(f"{each.class_name}: {each.reason}", _REASON_CHARS)
        draw.text((left, middle + 3), reason, colours.faint, small, anchor="lt")
    return sheet
