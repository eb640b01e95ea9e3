"""Groups that a data set does not name: bursts of one camera, frames of one video, and numbered series.

Images of a group are nearly the same picture, so one in train tells the answer of another in test.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags

from gapgate.data.picture.opening import read_header
from gapgate.errors import ImageError, SettingsError

BURST_SECONDS = 5
"""Longest time between two photos of one burst."""
MIN_SERIES = 5
"""Fewest series in a folder: of fewer, the common part of the names is the class and not the motif."""
MAX_STEP = 60
"""Mean step of the numbers in a series: a frame every two seconds of a video with 30 a second. Wider numbers are those
of a catalogue."""
_EXIF_SUFFIXES = (".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".png", ".heic", ".avif")
_NUMBERED = re.compile(r"(.*\D)(\d+)$")  # a name of digits alone is a number, not a series
_GROUP_COLUMNS = (
    "group",
    "patient",
    "subject",
    "person",
    "video",
    "clip",
    "scene",
    "session",
    "site",
    "series",
)


class Shot(NamedTuple):
    """Camera and time of a photo."""

    camera: str
    time: datetime


def named(ids: Iterable[tuple[int, str]], rule: str) -> dict[int, str]:
    """Group images by a regular expression: row → what its first group, or the whole expression, matches in the id.

    Raises:
        SettingsError: it matches no image.
    """
    pattern = re.compile(rule)
    found, example = {}, ""
    for row, name in ids:
        example = example or name
        if (match := pattern.search(name)) and (key := match[1] if pattern.groups else match[0]):
            found[row] = key
    if example and not found:
        raise SettingsError(
            f"preprocess.groups={rule!r} matches no image, such as {example}; mend it, or use auto or none"
        )
    return found


def series(ids: Iterable[tuple[int, str]]) -> dict[int, str]:
    """Group frames and numbered series by the id without its last number: row → folder and stem.

    The key is the name alone, so a new image moves no other, except where it makes a folder the first time look like
    one of series: where `MIN_SERIES` stems have two images or more, and none has half of the folder's images.
    """
    folders: dict[str, dict[str, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    for row, name in ids:
        folder, _, file = name.rpartition("/")
        stem = file.rpartition(".")[0] or file
        numbered = _NUMBERED.match(stem)
        key, number = (numbered[1], int(numbered[2])) if numbered else (stem, 0)
        folders[folder][key].append((row, number))
    found: dict[int, str] = {}
    for folder, stems in folders.items():
        of_series = {key: members for key, members in stems.items() if _is_series([number for _, number in members])}
        total = sum(map(len, stems.values()))
        if len(of_series) >= MIN_SERIES and 2 * max(map(len, of_series.values())) < total:
            found |= {row: f"{folder}/{key}" for key, members in of_series.items() for row, _ in members}
    return found


def _is_series(numbers: Collection[int]) -> bool:
    return len(numbers) > 1 and max(numbers) - min(numbers) <= MAX_STEP * (len(numbers) - 1)


def bursts(shots: Mapping[int, Shot]) -> dict[int, str]:
    """Group photos of one camera that follow each other within `BURST_SECONDS`: row → camera and time of the first.

    A new photo moves others only if it is earlier than a burst and within its reach, or joins two bursts.
    """
    cameras: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for row, shot in shots.items():
        cameras[shot.camera].append((shot.time, row))
    found: dict[int, str] = {}
    for camera, taken in cameras.items():
        taken.sort()
        first, start = taken[0][0], {taken[0][1]: taken[0][0]}
        for (before, _), (time, row) in pairwise(taken):
            first = first if (time - before).total_seconds() <= BURST_SECONDS else time
            start[row] = first
        found |= {row: f"{camera} {time:%Y-%m-%d %H:%M:%S}" for row, time in start.items()}
    return _shared(found)


def read_shots(root: Path, locators: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Shot]]:
    """Read camera and time from the EXIF data of files below `root`; files without both are left out."""
    for row, locator in locators:
        if locator.lower().endswith(_EXIF_SUFFIXES) and (shot := _shot(root / locator)):
            yield row, shot


def _shot(path: Path) -> Shot | None:
    try:
        # The header alone is read here; the pixels are decoded by now, and an unreadable file has no shot.
        with read_header(path, max_pixels=2**62) as image:
            exif = image.getexif()
            taken = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
            # EXIF texts end with NUL and some cameras fill them with spaces (EXIF 2.32, 4.6.2).
            camera = f"{exif.get(ExifTags.Base.Make, '')} {exif.get(ExifTags.Base.Model, '')}".strip(" \0")
            return Shot(camera, datetime.strptime(taken.strip(" \0"), "%Y:%m:%d %H:%M:%S")) if taken else None
    # A damaged EXIF block makes Pillow raise any of these, and a strange date makes strptime or strip do so.
    except (OSError, SyntaxError, ValueError, TypeError, AttributeError, ImageError):
        return None


def group_columns(header: Iterable[str]) -> list[str]:
    """List the columns of a table that look like groups by their names, such as `patient_id` and `Video`."""
    # `siteName` → site, name; the plural `patients` → patient.
    words = ((name, re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())) for name in header)
    return [name for name, parts in words if any(part.rstrip("s") in _GROUP_COLUMNS for part in parts)]


def merged(
    members: Iterable[tuple[int, str]], pairs: Iterable[tuple[int, int]], key_of: Callable[[int], str]
) -> dict[int, str]:
    """Join groups that share an image, and the images of `pairs`: row → least key of all that it is joined with.

    Args:
        members: rows with the key of each of their groups; a row may occur with several.
        pairs: rows of two images that belong together.
        key_of: key of a row that is in no group, such as its content hash.
    """
    # Union-find: a row (int) and a key (str) are nodes, and a chain of parents ends at the root of a part. `root` hangs
    # all that it passes directly below the root, so that long chains are walked once.
    parent: dict[int | str, int | str] = {}

    def root(node: int | str) -> int | str:
        path = []
        while (above := parent.setdefault(node, node)) != node:
            path.append(node)
            node = above
        parent.update(dict.fromkeys(path, node))
        return node

    for row, key in members:
        parent[root(row)] = root(key)
    for one, other in pairs:
        parent[root(one)] = root(other)
    parts: dict[int | str, list[int | str]] = defaultdict(list)
    for node in list(parent):
        parts[root(node)].append(node)
    found: dict[int, str] = {}
    for part in parts.values():
        rows = [node for node in part if isinstance(node, int)]
        # The least key, not the first: it must not depend on the order of the rows, or a new image could move old ones.
        key = min((node for node in part if isinstance(node, str)), default=None) or min(map(key_of, rows))
        found |= dict.fromkeys(rows, key)
    return found


def _shared(keys: Mapping[int, str]) -> dict[int, str]:
    """Leave out keys that only one row has."""
    counts: dict[str, int] = defaultdict(int)
    for key in keys.values():
        counts[key] += 1
    return {row: key for row, key in keys.items() if counts[key] > 1}
