"""Assignment of images to splits, and removal of copies.

Splits are sticky: the hash of an image's content (or of its group) decides, so that adding images to a data set moves
no image. Copies of an image are found by content, and no image is in two splits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from gapgate.data.image_table import Index
from gapgate.errors import DataError
from gapgate.settings.sections import PreprocessSettings

FOLDS = 5
"""Number of folds of a cross-validation."""
FOLDED_IMAGES = 1_500
"""Number of images from which on a test split decides: with 1,500 a model of 98 % without a gap passes the default gate
in 85 of 100 simulated splits, with 400 in 32 (bench/RESULTS.md)."""
STRATIFIED_CLASS_IMAGES = 100
"""Number of images of the smallest class from which on hashes alone give every class its share of each split."""


@dataclass(frozen=True, slots=True)
class Leaks:
    """Images of val and test that do not measure what they should, by the first reason that holds."""

    num_images: int
    """Number of images in val and test."""
    label_conflicts: int
    """Number of them whose pixels occur with another label."""
    copies: int
    """Number of them with a copy in another split."""
    near_duplicates: int
    """Number of them with a near-duplicate in another split."""
    groups: int
    """Number of them of a burst or series that is in another split too."""

    @property
    def share(self) -> float:
        """Share of the images of val and test that any of this holds for; 0 without such images."""
        found = self.label_conflicts + self.copies + self.near_duplicates + self.groups
        return found / self.num_images if self.num_images else 0.0


@dataclass(frozen=True, slots=True)
class Partition:
    """Summary of the splitting: the splits that were given, and the images left out."""

    given_splits: tuple[str, ...]
    """Names of the splits that the source defines itself."""
    num_folds: int
    """Number of folds, of which each is held out once; 0 with a test split."""
    within_split: int
    """Number of further copies of an image with the same label in the same split; one copy is kept."""
    across_splits: int
    """Number of images taken out of train because val or test has the same pixels, or out of val because test has."""
    near_across_splits: int
    """Number of images taken out of train because val or test has a near-duplicate, or out of val because test has."""
    leaks: Leaks
    """Images of val and test that were found in other splits, before anything was taken out."""
    label_conflicts: int
    """Number of images taken out of train because the same pixels occur with another label."""


def unit_share(salt: str, purpose: str, unit: str) -> float:
    """Compute a number in [0, 1), uniform over units and independent between purposes (`test`, `val`).

    It is made of the first 8 bytes of BLAKE2b (RFC 7693) over salt, purpose and unit, read as a big-endian fraction.
    """
    digest = blake2b(f"{salt}\0{purpose}\0{unit}".encode(), digest_size=16).digest()
    # A float has 53 bits: with all 64, the largest values would be rounded up to 1.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def partition(index: Index, settings: PreprocessSettings) -> Partition:
    """Assign every image of a decoded index to a split.

    Raises:
        DataError: a group has images in two given splits.
    """
    given = {name for (name,) in index.lines("SELECT DISTINCT given FROM images")} - {""}
    _refuse_straddling_groups(index)
    # The unit is what stays together: the group, or the content, so that copies get the same split. A hash holds only
    # hex digits, so no group's unit, which starts with "group ", equals one. Quarantined images have a split already.
    index.execute(
        "UPDATE images SET unit = IFNULL(bond, CASE grp WHEN '' THEN hash ELSE 'group ' || grp END) WHERE split IS NULL"
    )
    index.execute("UPDATE images SET split = given WHERE split IS NULL AND given IN ('val', 'test')")
    # A given split is not refilled: where the source has a test split, only val is drawn, from the rest.
    num_folds = _num_folds(index, settings, "test" in given)
    # Test before val: val_fraction is a share of what test leaves.
    held_out = [
        (name, fraction)
        for name, fraction in (("test", 0 if num_folds else settings.test_fraction), ("val", settings.val_fraction))
        if name not in given
    ]
    assign = _assign_exactly if num_folds or _is_stratified(index, settings) else _assign_by_hash
    for name, fraction in held_out:
        assign(index, settings.salt, name, fraction)
    if num_folds and "val" not in given and not index.one("SELECT COUNT(*) FROM images WHERE split = 'val'"):
        _take_for_val(index, settings.salt)
    index.execute("UPDATE images SET split = 'train' WHERE split IS NULL")
    # Created after all splits are set; the removals below would otherwise compare every image with every other.
    index.execute("CREATE INDEX by_hash ON images (hash)")
    leaks = _leaks(index)
    # The order is part of the meaning: each image leaves by the first reason that holds. Test loses nothing to other
    # splits, and val only to test, because what is measured must stay and what is trained on can go.
    dropped = {
        "within_split": _drop_copies(index),
        "label_conflicts": _drop_conflicts(index),
        "across_splits": _drop_across(index, "train", "'val', 'test'") + _drop_across(index, "val", "'test'"),
        "near_across_splits": _drop_near(index, "train", "'val', 'test'") + _drop_near(index, "val", "'test'"),
    }
    if num_folds:
        _assign_folds(index, settings.salt, num_folds)
    return Partition(given_splits=tuple(sorted(given)), num_folds=num_folds, leaks=leaks, **dropped)


def _num_folds(index: Index, settings: PreprocessSettings, has_test_split: bool) -> int:
    if settings.evidence == "auto":
        # A val split of the source counts too: with folds its images are dealt to them like those of train.
        is_small = index.one("SELECT COUNT(*) FROM images WHERE split IS NULL OR split = 'val'") < FOLDED_IMAGES
        return FOLDS if is_small and not has_test_split else 0
    return FOLDS if settings.evidence == "cross_validation" else 0


def _is_stratified(index: Index, settings: PreprocessSettings) -> bool:
    if settings.stratify == "auto":
        # The smallest class; copies count once, since one of them is kept.
        query = "SELECT COUNT(DISTINCT hash) AS n FROM images WHERE split IS NULL GROUP BY label ORDER BY n LIMIT 1"
        return (index.one(query) or 0) < STRATIFIED_CLASS_IMAGES
    return settings.stratify


def _refuse_straddling_groups(index: Index) -> None:
    query = "SELECT grp FROM images WHERE grp <> '' AND given <> '' GROUP BY grp HAVING COUNT(DISTINCT given) > 1"
    if (group := index.one(f"{query} ORDER BY grp")) is not None:
        raise DataError(f"group {group!r} has images in more than one given split; move each group into one split")


def _share_of(salt: str, purpose: str) -> Callable[[str], float]:
    return lambda unit: unit_share(salt, purpose, unit)


def _assign_by_hash(index: Index, salt: str, name: str, fraction: float) -> None:
    """Put each undecided unit into the split with probability `fraction`, whatever else is in the data set."""
    index.function("share", 1, _share_of(salt, name))
    # A unit below a fraction is below every larger one too, so a larger split keeps its images.
    index.execute("UPDATE images SET split = ? WHERE split IS NULL AND share(unit) < ?", name, fraction)


def _assign_exactly(index: Index, salt: str, name: str, fraction: float) -> None:
    """Put the undecided units of lowest hash of each class into the split, as many as come nearest to `fraction` of it.

    A group belongs to the class of most of its images; copies count once.
    """
    index.function("share", 1, _share_of(salt, name))
    index.execute("DROP TABLE IF EXISTS units")
    # by_label counts the distinct images of each label in each unit. ranked gives a unit the label with the most (place
    # 1; the lower label on a tie) and n, all its images. ordered runs through the units of a class by their hash and
    # adds up n: `reached` is the sum with the unit itself. A unit is taken if its middle, reached − n / 2, lies within
    # the rounded number of images wanted, so the cut falls where the sum is nearest, also with groups of unequal sizes.
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


def _take_for_val(index: Index, salt: str) -> None:
    """Put the smallest undecided unit into val where there are two or more: training needs some images to look at."""
    index.function("share", 1, _share_of(salt, "val"))
    units = "SELECT unit FROM images WHERE split IS NULL GROUP BY unit ORDER BY COUNT(*), share(unit), unit"
    # Two are asked for: of one unit nothing can be given away.
    if len(smallest := [unit for (unit,) in index.lines(f"{units} LIMIT 2")]) == 2:
        index.execute("UPDATE images SET split = 'val' WHERE split IS NULL AND unit = ?", smallest[0])


def _assign_folds(index: Index, salt: str, num_folds: int) -> None:
    """Deal the units of train and val to the folds 0 to `num_folds` − 1, such that each has about the same share of
    every class; a test split of the source is in no fold.

    A unit's fold follows from its place among the units of its class by their hash, so more images move few.
    """
    index.function("share", 1, _share_of(salt, "fold"))
    # As in `_assign_exactly`: the middle of a unit, reached − n / 2, on the line of all images of its class.
    index.execute(
        """
        CREATE TABLE folds AS
        WITH by_label AS (
            SELECT unit, label, COUNT(*) AS n FROM images WHERE split IN ('train', 'val') GROUP BY unit, label
        ), ranked AS (
            SELECT unit, label, SUM(n) OVER (PARTITION BY unit) AS n,
                   ROW_NUMBER() OVER (PARTITION BY unit ORDER BY n DESC, label) AS place
            FROM by_label
        ), ordered AS (
            SELECT unit, label, n, SUM(n) OVER (PARTITION BY label) AS total,
                   SUM(n) OVER (PARTITION BY label ORDER BY share(unit), unit) AS reached
            FROM ranked WHERE place = 1
        )
        -- Each class begins at another fold, or the first ones would get the odd images of all.
        SELECT unit, (CAST((reached - n / 2.0) * ?1 / total AS INTEGER) + label) % ?1 AS fold FROM ordered
        """,
        num_folds,
    )
    index.execute("CREATE UNIQUE INDEX fold_by_unit ON folds (unit)")
    index.execute(
        "UPDATE images SET fold = (SELECT fold FROM folds WHERE folds.unit = images.unit) "
        "WHERE split IN ('train', 'val')"
    )


def _leaks(index: Index) -> Leaks:
    """Count images of val and test with another label or a relative in another split."""
    index.execute("CREATE INDEX by_bond ON images (bond)")
    # What is drawn here keeps relatives together, so only splits of the source can be torn.
    other = "SELECT 1 FROM images AS other WHERE other.split <> images.split AND other.split <> 'quarantined' AND "
    num, conflicts, copies, near, groups = next(
        index.lines(
            f"""
            SELECT COUNT(*), IFNULL(SUM(conflict), 0), IFNULL(SUM(NOT conflict AND copy), 0),
                   IFNULL(SUM(NOT conflict AND NOT copy AND near), 0),
                   IFNULL(SUM(NOT conflict AND NOT copy AND NOT near AND grouped), 0)
            FROM (
                SELECT EXISTS (SELECT 1 FROM images AS other WHERE other.hash = images.hash
                               AND other.label <> images.label) AS conflict,
                       EXISTS ({other} other.hash = images.hash) AS copy,
                       EXISTS ({other} other.row IN (SELECT other FROM near WHERE one = images.row)) AS near,
                       EXISTS ({other} other.bond = images.bond) AS grouped
                FROM images WHERE split IN ('val', 'test')
            )
            """
        )
    )
    return Leaks(num, conflicts, copies, near, groups)


def _drop_near(index: Index, split: str, others: str) -> int:
    """Take images out of `split` that have a near-duplicate in one of the `others`; return their number."""
    # Copies of an image are not in `near`, so that the first image with the same hash stands for them.
    return index.execute(
        f"""
        UPDATE images SET split = 'duplicate', reason = (
            SELECT 'nearly the same as ' || other.id || ' in ' || other.split FROM near
            JOIN images AS other ON other.row = near.other
            WHERE near.one = images.row AND other.split IN ({others}) ORDER BY other.row LIMIT 1
        )
        WHERE split = ? AND EXISTS (
            SELECT 1 FROM near JOIN images AS other ON other.row = near.other
            WHERE near.one = images.row AND other.split IN ({others})
        )
        """,
        split,
    )


def _drop_copies(index: Index) -> int:
    """Take out all copies of an image but the first, where hash, label and split are equal; return their number."""
    # The hint INDEXED BY makes the statement fail rather than scan the whole table for each copy.
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
    """Take images out of train whose pixels occur with another label, anywhere; return their number."""
    # In train alone: val and test are measured as they are. `other` may have any split, also 'duplicate', so both sides
    # of a conflict within train are taken out.
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
    """Take images out of `split` whose pixels are in one of the `others` too; return their number."""
    # `others` is a list of SQL literals from this module, never of a user: a parameter cannot stand for a list.
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
