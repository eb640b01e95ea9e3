"""Which image is in which split, and which images may not be in any.

Splits are sticky: the hash of an image's content (or of its group) decides, so that growing a data set never moves an
image. Copies of an image are found by content and never stand on both sides of a measurement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from gapgate.data.image_table import Index
from gapgate.errors import DataError
from gapgate.settings.sections import PreprocessSettings


@dataclass(frozen=True, slots=True)
class Partition:
    """How the images were split, and how many were left out."""

    given_splits: tuple[str, ...]
    """Splits that the source brought itself."""
    within_split: int
    """Further copies of an image with the same label in the same split; one is kept."""
    across_splits: int
    """Images taken out of train (or val) because val or test (or test) has the same pixels."""
    label_conflicts: int
    """Images taken out of train because the same pixels occur with another label."""


def unit_share(salt: str, purpose: str, unit: str) -> float:
    """A number in [0, 1), uniform over units and independent between purposes (`test`, `val`).

    The first 8 bytes of BLAKE2b (RFC 7693) over salt, purpose and unit, read as a big-endian fraction.
    """
    digest = blake2b(f"{salt}\0{purpose}\0{unit}".encode(), digest_size=16).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def partition(index: Index, settings: PreprocessSettings) -> Partition:
    """Give every image of a decoded index its split.

    Raises:
        DataError: a group with images in two given splits.
    """
    given = {name for (name,) in index.lines("SELECT DISTINCT given FROM images")} - {""}
    _refuse_straddling_groups(index)
    index.execute("UPDATE images SET unit = CASE grp WHEN '' THEN hash ELSE 'group ' || grp END WHERE split IS NULL")
    index.execute("UPDATE images SET split = given WHERE split IS NULL AND given IN ('val', 'test')")
    held_out = [
        (name, fraction)
        for name, fraction in (("test", settings.test_fraction), ("val", settings.val_fraction))
        if name not in given
    ]
    assign = _assign_exactly if settings.stratify else _assign_by_hash
    for name, fraction in held_out:
        assign(index, settings.salt, name, fraction)
    index.execute("UPDATE images SET split = 'train' WHERE split IS NULL")
    index.execute("CREATE INDEX by_hash ON images (hash)")
    return Partition(
        given_splits=tuple(sorted(given)),
        within_split=_drop_copies(index),
        label_conflicts=_drop_conflicts(index),
        across_splits=_drop_across(index, "train", "'val', 'test'") + _drop_across(index, "val", "'test'"),
    )


def _refuse_straddling_groups(index: Index) -> None:
    query = "SELECT grp FROM images WHERE grp <> '' AND given <> '' GROUP BY grp HAVING COUNT(DISTINCT given) > 1"
    if (group := index.one(f"{query} ORDER BY grp")) is not None:
        raise DataError(f"group {group!r} has images in more than one given split; move each group into one split")


def _share_of(salt: str, purpose: str) -> Callable[[str], float]:
    return lambda unit: unit_share(salt, purpose, unit)


def _assign_by_hash(index: Index, salt: str, name: str, fraction: float) -> None:
    """Each undecided unit goes into the split with a probability of `fraction`, whatever else is in the data set."""
    index.function("share", 1, _share_of(salt, name))
    index.execute("UPDATE images SET split = ? WHERE split IS NULL AND share(unit) < ?", name, fraction)


def _assign_exactly(index: Index, salt: str, name: str, fraction: float) -> None:
    """In each class, the undecided units of lowest hash go into the split, as many as come nearest to `fraction` of its
    images. A group belongs to the class that most of its images have; copies count once."""
    index.function("share", 1, _share_of(salt, name))
    index.execute("DROP TABLE IF EXISTS units")
    index.execute(
        """
        CREATE TABLE units AS
        WITH by_label AS (
            SELECT unit, label, COUNT(DISTINCT hash) AS n FROM images WHERE split IS NULL GROUP BY unit, label
        ), ranked AS (
            SELECT unit, label, SUM(n) OVER (PARTITION BY unit) AS n,
                   ROW_NUMBER() OVER (PARTITION BY unit ORDER BY n DESC, label) AS place
            FROM by_label
        ), ordered AS (
            SELECT unit, n, SUM(n) OVER (PARTITION BY label) AS total,
                   SUM(n) OVER (PARTITION BY label ORDER BY share(unit), unit) AS reached
            FROM ranked WHERE place = 1
        )
        SELECT unit FROM ordered WHERE reached - n / 2.0 <= CAST(total * ? + 0.5 AS INTEGER)
        """,
        fraction,
    )
    index.execute("UPDATE images SET split = ? WHERE split IS NULL AND unit IN (SELECT unit FROM units)", name)


def _drop_copies(index: Index) -> int:
    return index.execute(
        """
        UPDATE images SET split = 'duplicate', reason = 'same pixels as ' || (
            SELECT first.id FROM images AS first INDEXED BY by_hash
            WHERE first.hash = images.hash AND first.label = images.label AND first.split = images.split
            ORDER BY first.row LIMIT 1
        )
        WHERE row IN (
            SELECT row FROM (
                SELECT row, ROW_NUMBER() OVER (PARTITION BY hash, label, split ORDER BY row) AS copy
                FROM images WHERE split IN ('train', 'val', 'test')
            ) WHERE copy > 1
        )
        """
    )


def _drop_conflicts(index: Index) -> int:
    return index.execute(
        """
        UPDATE images SET split = 'duplicate', reason = 'same pixels with another label as ' || (
            SELECT other.id FROM images AS other
            WHERE other.hash = images.hash AND other.label <> images.label ORDER BY other.row LIMIT 1
        )
        WHERE split = 'train' AND EXISTS (
            SELECT 1 FROM images AS other WHERE other.hash = images.hash AND other.label <> images.label
        )
        """
    )


def _drop_across(index: Index, split: str, others: str) -> int:
    """Take images out of `split` whose pixels are in one of the `others` too."""
    return index.execute(
        f"""
        UPDATE images SET split = 'duplicate', reason = (
            SELECT 'same pixels in ' || other.split || ' as ' || other.id FROM images AS other
            WHERE other.hash = images.hash AND other.split IN ({others}) ORDER BY other.row LIMIT 1
        )
        WHERE split = ? AND EXISTS (
            SELECT 1 FROM images AS other WHERE other.hash = images.hash AND other.split IN ({others})
        )
        """,
        split,
    )
