"""Columns of a table by their names: the path, the label, the split, and those that hold pixels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from gapgate.errors import DataError
from gapgate.settings.sections import Reading

_NAMES = {
    "path": (
        *("path", "file", "filename", "filepath", "image", "imagepath", "imagefile", "imagename", "img", "imgpath"),
        *("imgname", "imageid", "imgid", "photo", "picture", "imageindex", "idcode"),
    ),
    "label": (
        *("label", "labels", "labelname", "class", "classname", "target", "category", "categoryname", "classid"),
        *("labelid", "categoryid", "finelabel", "y", "emotion", "diagnosis", "dx", "breed", "species"),
    ),
    "group": ("group", "groupid"),
    "split": ("split", "subset", "fold", "set", "partition", "usage", "isvalid", "isval", "istrain", "istest"),
    "id": ("id",),
}
"""Column → names that it may have, in the order in which they are tried; case, spaces and underscores do not count."""
USUAL = {"path": "path, file, filename, image, image_id", "label": "label, class, target, category"}
_PIXEL = re.compile(r"(pixel|pix|px)[ ._-]?\d+|\d+x\d+", re.IGNORECASE)
"""Name of a column with one pixel: `pixel0`, or row and column as in `28x28`."""
FEWEST_PIXELS = 64
_SHOWN_COLUMNS = 20


def pixel_columns(header: Sequence[str]) -> tuple[str, ...]:
    """The columns that hold a pixel each, or the one that holds all of them as text; `()` if there are none."""
    found = tuple(name for name in header if _PIXEL.fullmatch(name.strip()))
    if len(found) >= FEWEST_PIXELS:
        return found
    return tuple(name for name in header if plain(name) == "pixels")[:1]


def understood(path: Path, header: list[str], reading: Reading) -> dict[str, str]:
    """Map our name of each column to its name in the table."""
    # Reversed, so that the first of two columns with the same plain name wins.
    there = {plain(name): name for name in reversed(header)}
    found = {}
    for ours, names in _NAMES.items():
        if theirs := next((there[name] for name in names if name in there), None):
            found[ours] = theirs
    for ours, chosen in (("path", reading.path_column), ("label", reading.label_column)):
        if not chosen:
            continue
        if plain(chosen) in there:
            found[ours] = there[plain(chosen)]
        elif chosen.isdecimal() and 0 < int(chosen) <= len(header):
            found[ours] = header[int(chosen) - 1]
        else:
            raise DataError(f"{path} has no column {chosen}; it has {listed(header)}: name one with --{ours}-column")
    for ours in ("path", "label"):
        if header.count(found.get(ours, "")) > 1:
            raise DataError(f"{path} has {header.count(found[ours])} columns {found[ours]}; rename all but one")
    # Kaggle's tables of `id` and label: the id is the file's name.
    if "path" not in found and "id" in found and not pixel_columns(header):
        found["path"] = found.pop("id")
    # One column serves one purpose; that of the user's choice before that of a usual name.
    taken = {found[ours] for ours in ("path", "label") if ours in found}
    return {ours: theirs for ours, theirs in found.items() if ours in ("path", "label") or theirs not in taken}


def plain(name: str) -> str:
    """A column's name as it is compared: without case, spaces and underscores."""
    return re.sub(r"[\W_]+", "", str(name).lower())


def listed(names: Sequence[str]) -> str:
    """The first names of many columns."""
    return ", ".join(names[:_SHOWN_COLUMNS]) + (", …" if len(names) > _SHOWN_COLUMNS else "")
