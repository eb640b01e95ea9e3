"""Finding of what must stay in one split: groups that the source does not name, and near-duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gapgate.data.image_table import Index
from gapgate.data.leaks import groups
from gapgate.data.leaks.near_duplicates import near_pairs
from gapgate.data.sources.base import FileReader, Reader

MAX_ALIKE = 20
"""Most images that near-duplicates tie together. More are no copies of one picture: all of the set look alike, as parts
on one background do, and tying them together would leave one group a class."""
MAX_TIED_SHARE = 0.5
"""Largest share of the images in one unit of groups that near-duplicates tie together; beyond it they tie none."""
MAX_COMPARED = 100_000
"""Largest number of images that are compared with each other for near-duplicates; time grows with its square."""


@dataclass(frozen=True, slots=True)
class Bonds:
    """Summary of what was found."""

    in_series: int
    """Number of images in frames of one video or numbered series, or in groups of the user's rule."""
    in_bursts: int
    """Number of images in bursts of one camera."""
    near_pairs: int | None
    """Number of pairs of near-duplicates; None where they were not looked for."""


def bind(index: Index, reader: Reader, images_file: Path, rule: str) -> Bonds:
    """Set the column `bond` and fill the table `near` of a decoded index, by `preprocess.groups`.

    Raises:
        SettingsError: a rule matches no image.
    """
    if rule == "none":
        return Bonds(0, 0, None)
    # The source's own groups say more than names and times do.
    ungrouped = "SELECT row, {} FROM images WHERE split IS NULL AND grp = '' ORDER BY row"
    ids = index.lines(ungrouped.format("id"))
    series = groups.series(ids) if rule == "auto" else groups.named(ids, rule)
    bursts: dict[int, str] = {}
    if rule == "auto" and isinstance(reader, FileReader):
        bursts = groups.bursts(dict(groups.read_shots(reader.path, index.lines(ungrouped.format("locator")))))
    pairs = _near(index, images_file)
    units = dict(index.lines("SELECT row, 'group ' || grp FROM images WHERE split IS NULL AND grp <> ''"))
    members = [
        *units.items(),
        *((row, f"series {key}") for row, key in series.items()),
        *((row, f"shots {key}") for row, key in bursts.items()),
    ]

    def key_of(row: int) -> str:
        return str(index.one("SELECT hash FROM images WHERE row = ?", row))

    bonds = groups.merged(members, pairs or [], key_of)
    if _largest(bonds) > MAX_TIED_SHARE * index.one("SELECT COUNT(*) FROM images WHERE split IS NULL"):
        # Patients whose X-rays look alike stay apart, or nothing would be left to divide.
        grouped = {row for row, _ in members}
        bonds = groups.merged(members, [pair for pair in pairs or [] if grouped.isdisjoint(pair)], key_of)
    index.insert_many("UPDATE images SET bond = ? WHERE row = ?", ((key, row) for row, key in bonds.items()))
    return Bonds(len(series), len(bursts), None if pairs is None else len(pairs))


def _largest(bonds: Mapping[int, str]) -> int:
    return max(Counter(bonds.values()).values(), default=0)


def _near(index: Index, images_file: Path) -> list[tuple[int, int]] | None:
    """Find near-duplicates and copies; None where there are too many images to compare."""
    # Of copies the first alone is compared.
    rows = np.array([row for (row,) in index.lines("SELECT MIN(row) FROM images WHERE split IS NULL GROUP BY hash")])
    if len(rows) > MAX_COMPARED:
        return None
    pairs: list[tuple[int, int]] = []
    if len(rows):
        pairs = [(int(a), int(b)) for a, b in near_pairs(np.load(images_file, mmap_mode="r"), np.sort(rows))]
    pairs = _without_chains(pairs)
    index.insert_many("INSERT INTO near VALUES (?, ?)", [*pairs, *((b, a) for a, b in pairs)])
    # The queries for leaks look up each image of val and test here; without an index each would read the whole table.
    index.execute("CREATE INDEX near_one ON near (one)")
    return pairs


def _without_chains(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Leave out the pairs that tie more than `MAX_ALIKE` images together, directly or by others."""
    together = groups.merged([], pairs, str)
    sizes = Counter(together.values())
    return [pair for pair in pairs if sizes[together[pair[0]]] <= MAX_ALIKE]
