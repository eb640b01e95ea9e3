"""Files and folders that appear under their name only when they are whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gapgate.errors import storage_errors


@contextmanager
def whole_file(path: Path, *, fsync: bool = False) -> Iterator[Path]:
    """Yield a path beside `path` to write a file to. When the block ends well, that file takes the name `path`,
    replacing what was there; when the block fails, it is removed.

    Args:
        path: the name of the whole file.
        fsync: writes its content to the disk before it is renamed, so that no power cut leaves an empty file.

    Raises:
        StorageError: the disk is full or the place may not be written.
    """
    partial = _beside(path)
    with storage_errors(path):
        try:
            yield partial
            if fsync:
                sync(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`. When the block ends well, it takes the name `path`, replacing what was
    there; when the block fails, it is removed.

    Raises:
        StorageError: the disk is full or the place may not be written.
    """
    partial = _beside(path)
    with storage_errors(path):
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            yield partial
            shutil.rmtree(path, ignore_errors=True)
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def sync(path: Path) -> None:
    """Write what the system still holds of a file to the disk; of a folder, the names of its files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    """A hidden name that says what it will be, with the process, so that two processes do not write the same one."""
    return path.with_name(f".{path.name}.partial-{os.getpid()}")
