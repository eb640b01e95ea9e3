"""Table of the images of one preprocess run, in a temporary SQLite file: memory does not grow with their number."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gapgate.data.decoding import Decoded
from gapgate.data.sources import Record
from gapgate.errors import DataError

BATCH = 4096
"""Number of rows in memory at a time."""

# No journal and no syncing: the file is deleted after the run, so nothing needs to survive a crash.
_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE images (
    row INTEGER PRIMARY KEY,          -- of images.npy
    id TEXT NOT NULL,
    label INTEGER NOT NULL,
    given TEXT NOT NULL,              -- the source's own split, or empty
    grp TEXT NOT NULL,
    locator TEXT NOT NULL,
    hash TEXT,                        -- of the content, hex; null until decoded and where that failed
    width INTEGER, height INTEGER,    -- as stored, in pixels
    sum0 INTEGER, sum1 INTEGER, sum2 INTEGER,             -- of each channel's values in images.npy
    square0 INTEGER, square1 INTEGER, square2 INTEGER,    -- of their squares
    form TEXT,                        -- Pillow's name of the file's format; empty for an array
    bond TEXT,                        -- found group or near-duplicates that the image belongs to; null without one
    unit TEXT,                        -- what is split as one: the group, or the content
    split TEXT,
    fold INTEGER,                     -- of a cross-validation, from 0; null without one
    reason TEXT NOT NULL DEFAULT ''
);
CREATE TABLE near (one INTEGER, other INTEGER);    -- rows of near-duplicates, in both orders
"""


class Index:
    """Table `images`, queried in SQL; results of more than one row are streamed."""

    def __init__(self, path: Path) -> None:
        # isolation_level=None: Python starts no transactions of its own. All statements run in one, since a commit for
        # each would write to the file every time.
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript(_SCHEMA)
        self._db.execute("BEGIN")

    def close(self) -> None:
        """Close the file without saving; its content is not needed any more."""
        self._db.close()

    def fill(self, records: Iterable[Record]) -> int:
        """Insert the records as rows 0, 1, … and return their number.

        Raises:
            DataError: an id occurs twice.
        """
        rows = ((row, *record) for row, record in enumerate(records))
        self._db.executemany("INSERT INTO images (row, id, label, given, grp, locator) VALUES (?, ?, ?, ?, ?, ?)", rows)
        # Checked once at the end instead of by a UNIQUE constraint, so that the message can count all such ids.
        query = "SELECT id FROM images GROUP BY id HAVING COUNT(*) > 1"
        if twice := self.one(f"SELECT COUNT(*) FROM ({query})"):
            example = self.one(f"{query} ORDER BY MIN(row) LIMIT 1")
            raise DataError(f"{twice:,} ids occur more than once, first {example}; give each image its own id")
        return int(self.one("SELECT COUNT(*) FROM images"))

    def store(self, decoded: Iterable[Decoded]) -> None:
        """Add the results of decoding; images with a reason become quarantined."""
        self._db.executemany(
            # The reason is given twice: as it is, and to tell whether there is one.
            "UPDATE images SET hash = ?, width = ?, height = ?, sum0 = ?, sum1 = ?, sum2 = ?, "
            "square0 = ?, square1 = ?, square2 = ?, form = ?, reason = ?, "
            "split = CASE ? WHEN '' THEN NULL ELSE 'quarantined' END WHERE row = ?",
            (
                (
                    d.content_hash,
                    d.width,
                    d.height,
                    *_three(d.sums),
                    *_three(d.squares),
                    d.form,
                    d.reason,
                    d.reason,
                    d.row,
                )
                for d in decoded
            ),
        )

    def execute(self, statement: str, *values: object) -> int:
        """Run a statement and return the number of rows it changed."""
        return self._db.execute(statement, values).rowcount

    def insert_many(self, statement: str, lines: Iterable[tuple[Any, ...]]) -> None:
        """Run a statement once for each line of values."""
        self._db.executemany(statement, lines)

    def one(self, query: str, *values: object) -> Any:
        """Return the first column of the first row, or None."""
        line = self._db.execute(query, values).fetchone()
        return None if line is None else line[0]

    def lines(self, query: str, *values: object) -> Iterator[tuple[Any, ...]]:
        """Stream the rows of a query. The table must not be changed before the last row."""
        yield from self._db.execute(query, values)

    def batches(self, query: str, *values: object) -> Iterator[list[tuple[Any, ...]]]:
        """Stream the rows of a query as `lines` does, in lists of at most `BATCH`."""
        cursor = self._db.execute(query, values)
        while lines := cursor.fetchmany(BATCH):
            yield lines

    def jobs(self) -> Iterator[tuple[int, str]]:
        """Yield (row, locator) of every image; the table may be changed meanwhile."""
        # A query for each batch instead of one open cursor: the results of decoding are stored in between, and it is
        # undefined whether an open SELECT of SQLite sees such changes (https://sqlite.org/isolation.html).
        start = 0
        while jobs := self._db.execute(
            "SELECT row, locator FROM images WHERE row >= ? ORDER BY row LIMIT ?", (start, BATCH)
        ).fetchall():
            yield from jobs
            start += len(jobs)

    def function(self, name: str, num_arguments: int, function: Any) -> None:
        """Make a Python function callable from SQL; the same arguments must give the same value."""
        self._db.create_function(name, num_arguments, function, deterministic=True)


def _three(values: tuple[int, ...]) -> tuple[int | None, ...]:
    return (*values, None, None, None)[:3]
