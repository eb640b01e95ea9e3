"""Parquet files, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gapgate.errors import DataError


def holds_images(kind: Any) -> bool:
    """True for a column of bytes, or of Hugging Face's pairs of bytes and path."""
    import pyarrow

    types = pyarrow.types
    if types.is_struct(kind):
        return any(kind.field(index).name == "bytes" for index in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def opened(path: Path) -> Any:
    """Open a file.

    Raises:
        DataError: it is not Parquet.
    """
    import pyarrow  # takes half a second and 60 MB, which no other format needs
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise _not_parquet(path, error) from None


def rows(path: Path, names: list[str], batch_size: int) -> Iterator[dict[str, Any]]:
    """Stream the rows with the columns `names`, `batch_size` in memory at a time.

    Raises:
        DataError: the file is damaged.
    """
    import pyarrow

    try:
        for batch in opened(path).iter_batches(batch_size=batch_size, columns=names):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:  # damaged behind the header
        raise _not_parquet(path, error) from None


def _not_parquet(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is not a Parquet file, or damaged ({str(error)[:80]}); save it again")
