"""Writers of predictions as CSV, JSON and Parquet; each writes its rows as they come."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from gapgate.errors import SettingsError
from gapgate.files import whole_file
from gapgate.text import printable
from serving.client.prediction import Row

Write = Callable[[list[Row]], None]
_FORMULA = ("=", "+", "-", "@")
"""Beginnings of a formula (OWASP, "CSV Injection"); tab and line break, which are others, are escaped."""
_ROW_GROUP = 50_000
"""Rows of a Parquet row group. A group for each batch of 64 would fill the file with metadata."""


@contextmanager
def csv_to(file: IO[str], top_k: int) -> Iterator[Write]:
    """Write CSV (RFC 4180, but with line feeds alone): file, class, confidence, class_2, confidence_2, ..., error,
    model, version, receipt. A text that a spreadsheet would take for a formula has an apostrophe before it, and control
    characters are escaped."""
    writer = csv.writer(file, lineterminator="\n")
    rivals = [f"{name}_{place}" for place in range(2, top_k + 1) for name in ("class", "confidence")]
    writer.writerow(["file", "class", "confidence", *rivals, "error", "model", "version", "receipt"])

    def write(rows: list[Row]) -> None:
        for row in rows:
            ranked = [cell for pair in row.probabilities.items() for cell in pair]
            # Errors, and models with fewer classes than `top_k`, leave cells empty: each row has all columns.
            ranked += [""] * (2 * top_k - len(ranked))
            cells = [row.file, *ranked, row.error, row.model, row.version, row.receipt]
            writer.writerow([_harmless(cell) if isinstance(cell, str) else cell for cell in cells])

    yield write


def _harmless(text: str) -> str:
    """A text that steers no terminal, and that a spreadsheet shows instead of computing it."""
    shown = printable(text)
    return f"'{shown}" if shown.lstrip().startswith(_FORMULA) else shown


@contextmanager
def json_to(file: IO[str], top_k: int) -> Iterator[Write]:
    """Write a JSON array with an object for each image, with the field names of the server's answers."""
    # Written piece by piece, so that a million rows need no memory; the file is whole only with the last bracket.
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
    """Write Parquet: file, class, confidence, classes and probabilities (lists, most probable first), error, model,
    version, receipt. Class, confidence and error are null if there is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, number = pa.string(), pa.float32()
    ranked = {"classes": pa.list_(text), "probabilities": pa.list_(number)}
    source = dict.fromkeys(("error", "model", "version", "receipt"), text)
    schema = pa.schema({"file": text, "class": text, "confidence": number} | ranked | source)
    waiting: list[dict[str, Any]] = []
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:

        def flush() -> None:
            if waiting:
                writer.write_table(pa.Table.from_pylist(waiting, schema))
                waiting.clear()

        def write(rows: list[Row]) -> None:
            for row in rows:
                best = {"class": row.class_name or None, "confidence": row.confidence, "error": row.error or None}
                ranked = {"classes": list(row.probabilities), "probabilities": list(row.probabilities.values())}
                waiting.append(asdict(row) | best | ranked)
            if len(waiting) >= _ROW_GROUP:
                flush()

        yield write
        flush()


def check_output(path: Path) -> None:
    """Check before the work that its result can be written.

    Raises:
        SettingsError: the suffix is not .csv, .json or .parquet, or there is no folder to write to.
    """
    if path.suffix.lower() not in (".csv", ".json", ".parquet"):
        raise SettingsError(f"--output {path}: name a file that ends in .csv, .parquet or .json")
    if not path.absolute().parent.is_dir():
        raise SettingsError(f"--output {path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise SettingsError(f"--output {path} is a folder; name a file")


@contextmanager
def to_file(path: Path, top_k: int) -> Iterator[Write]:
    """Write CSV, JSON or Parquet by the suffix of `path`; the file appears once all is written.

    Raises:
        StorageError: the disk is full, or the folder is not writable.
    """
    with whole_file(path) as partial:
        if path.suffix.lower() == ".parquet":
            with parquet_to(partial) as write:
                yield write
        else:
            form = csv_to if path.suffix.lower() == ".csv" else json_to
            with partial.open("w", encoding="utf-8", newline="") as file, form(file, top_k) as write:
                yield write
