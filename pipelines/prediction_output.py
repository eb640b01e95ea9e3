"""Where predictions go: CSV, JSON and Parquet as they come, and a table for people at the end."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gapgate.errors import SettingsError, storage_errors
from pipelines.prediction import Row

Write = Callable[[list[Row]], None]
HEAD = 20
"""Rows that the table shows."""
_ERRORS = 10
"""Errors that it shows."""
_ROW_GROUP = 50_000
_BESIDE_FILE = 45
"""Columns of the terminal that the rest of a table's row may take."""


@contextmanager
def csv_to(file: IO[str], top_k: int) -> Iterator[Write]:
    """CSV (RFC 4180, but for plain line ends): file, class, confidence, class_2, confidence_2, ..., error, model,
    version, receipt."""
    writer = csv.writer(file, lineterminator="\n")
    rivals = [f"{name}_{place}" for place in range(2, top_k + 1) for name in ("class", "confidence")]
    writer.writerow(["file", "class", "confidence", *rivals, "error", "model", "version", "receipt"])

    def write(rows: list[Row]) -> None:
        for row in rows:
            ranked = [cell for pair in row.probabilities.items() for cell in pair]
            ranked += [""] * (2 * top_k - len(ranked))
            writer.writerow([row.file, *ranked, row.error, row.model, row.version, row.receipt])

    yield write


@contextmanager
def json_to(file: IO[str], top_k: int) -> Iterator[Write]:
    """A JSON array with an object for each image, in the words of the server's answers."""
    before = "[\n"

    def write(rows: list[Row]) -> None:
        nonlocal before
        for row in rows:
            file.write(before + json.dumps(row.as_dict(), ensure_ascii=False))
            before = ",\n"

    yield write
    file.write("\n]\n" if before != "[\n" else "[]\n")


@contextmanager
def parquet_to(path: Path) -> Iterator[Write]:
    """Parquet: file, class, confidence, classes and probabilities (lists, most probable first), error, model, version,
    receipt. Class, confidence and error are null where there is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("file", pa.string()),
            ("class", pa.string()),
            ("confidence", pa.float32()),
            ("classes", pa.list_(pa.string())),
            ("probabilities", pa.list_(pa.float32())),
            ("error", pa.string()),
            ("model", pa.string()),
            ("version", pa.string()),
            ("receipt", pa.string()),
        ]
    )
    waiting: list[dict[str, Any]] = []
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:

        def flush() -> None:
            if waiting:
                writer.write_table(pa.Table.from_pylist(waiting, schema))
                waiting.clear()

        def write(rows: list[Row]) -> None:
            waiting.extend(_parquet_row(row) for row in rows)
            if len(waiting) >= _ROW_GROUP:
                flush()

        yield write
        flush()


def _parquet_row(row: Row) -> dict[str, Any]:
    return {
        "file": row.file,
        "class": row.class_name or None,
        "confidence": row.confidence,
        "classes": list(row.probabilities),
        "probabilities": list(row.probabilities.values()),
        "error": row.error or None,
        "model": row.model,
        "version": row.version,
        "receipt": row.receipt,
    }


def check_output(path: Path) -> None:
    """Find out before the work whether its result can be written.

    Raises:
        SettingsError: another suffix than .csv, .json and .parquet, or no folder to write to.
    """
    if path.suffix.lower() not in (".csv", ".json", ".parquet"):
        raise SettingsError(f"--output {path}: name a file that ends in .csv, .parquet or .json")
    if not path.absolute().parent.is_dir():
        raise SettingsError(f"--output {path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise SettingsError(f"--output {path} is a folder; name a file")


@contextmanager
def to_file(path: Path, top_k: int) -> Iterator[Write]:
    """CSV, JSON or Parquet by the suffix of `path`, which appears when all is written.

    Raises:
        StorageError: the disk is full, or the folder may not be written.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with storage_errors(path):
        try:
            if path.suffix.lower() == ".parquet":
                with parquet_to(partial) as write:
                    yield write
            else:
                form = csv_to if path.suffix.lower() == ".csv" else json_to
                with partial.open("w", encoding="utf-8", newline="") as file, form(file, top_k) as write:
                    yield write
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


class Summary:
    """What a person sees in the end: each image of a few, the first ones and a count by class of many."""

    def __init__(self) -> None:
        self.num_images = 0
        self.num_errors = 0
        self._head: list[Row] = []
        self._errors: list[Row] = []
        self._classes: Counter[str] = Counter()
        self._sources: dict[tuple[str, str, str], None] = {}

    def write(self, rows: list[Row]) -> None:
        """Take further rows into account."""
        answered = [row for row in rows if not row.error]
        failed = [row for row in rows if row.error]
        self.num_images += len(rows)
        self.num_errors += len(failed)
        self._head += answered[: HEAD - len(self._head)]
        self._errors += failed[: _ERRORS - len(self._errors)]
        self._classes.update(row.class_name for row in answered)
        self._sources |= dict.fromkeys((row.model, row.version, row.receipt) for row in answered)

    def show(self, console: Console, seconds: float) -> None:
        """Print the tables, the errors, and who answered how fast."""
        if self._head:
            console.print(self._images(max(20, console.width - _BESIDE_FILE)))
        if (rest := self.num_images - self.num_errors - len(self._head)) > 0:
            console.print(f"[dim]… and {rest:,} more[/]\n", highlight=False)
            console.print(self._counts())
        if self.num_errors:
            console.print(f"\n[red]no answer to {self.num_errors:,} of {self.num_images:,}:[/]", highlight=False)
            for row in self._errors:
                console.print(Text(f"  {row.file}: {row.error}"), soft_wrap=not console.is_terminal)
            if self.num_errors > len(self._errors):
                console.print(f"  [dim]… and {self.num_errors - len(self._errors):,} more[/]", highlight=False)
        console.print()
        for model, version, receipt in self._sources:
            console.print(f"[bold]{escape(model)} version {version}[/]  receipt {receipt[:19]}", highlight=False)
        # Of a few images the rate is that of loading.
        rate = f", {self.num_images / seconds:,.0f} a second" if self.num_images >= 100 else ""
        images = f"{self.num_images:,} image{'s' * (self.num_images != 1)}"
        console.print(f"{images} in {seconds:.1f} s{rate}", highlight=False)

    def _images(self, file_width: int) -> Table:
        has_rivals = any(len(row.probabilities) > 1 for row in self._head)
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("file")
        table.add_column("class")
        table.add_column("confidence", justify="right")
        if has_rivals:
            table.add_column("second class")
            table.add_column("", justify="right")
        for row in self._head:
            ranked = list(row.probabilities.items())[: 1 + has_rivals]
            cells = [cell for name, value in ranked for cell in (Text(name), Text(f"{value:.1%}"))]
            for cell in cells[2:]:
                cell.stylize("dim")
            table.add_row(Text(_end_of(row.file, file_width)), *cells)
        return table

    def _counts(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("class")
        table.add_column("images", justify="right")
        table.add_column("share", justify="right")
        total = sum(self._classes.values())
        for name, count in sorted(self._classes.items(), key=lambda item: (-item[1], item[0])):
            table.add_row(Text(name), f"{count:,}", f"{count / total:.1%}")
        return table


def _end_of(name: str, width: int) -> str:
    """The end of a path, which tells files apart."""
    return name if len(name) <= width else "…" + name[1 - width :]
