"""Files and folders that appear under their name only when they are complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gapgate.errors import storage_errors


@contextmanager
def whole_file(path: Path, *, fsync: bool = False) -> Iterator[Path]:
    """Yield a path beside `path` to write a file to.

    If the block succeeds, that file is renamed to `path` and replaces a file there; if it fails, the file is removed.

    Args:
        path: name of the complete file.
        fsync: True writes the content to the disk before the rename, so that a power cut leaves no empty file.

    Raises:
        StorageError: the disk is full, or the folder is not writable.
    """
    partial = _beside(path)
    with storage_errors(path):
        try:
            yield partial
            if fsync:
                sync(partial)
            # rename(2) replaces the old file in one step: a reader finds the old or the new content, nothing between.
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`.

    If the block succeeds, the folder is renamed to `path` and replaces a folder there; if it fails, it is removed.

    Raises:
        StorageError: the disk is full, or the parent folder is not writable.
    """
    partial = _beside(path)
    with storage_errors(path):
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            yield partial
            # rename(2) replaces only an empty folder, so the old one goes first: for a moment there is none.
            shutil.rmtree(path, ignore_errors=True)
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def sync(path: Path) -> None:
    """Write the content of a file, or the names in a folder, from the system's cache to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    """Return a hidden name beside `path`, different for each process."""
    # In the same folder, since a rename works within one file system only; with the process's number, so that two
    # processes that write the same file do not write into each other's.
    return path.with_name(f".{path.name}.partial-{os.getpid()}")
