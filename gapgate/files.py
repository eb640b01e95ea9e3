"""Files and folders that appear under their name only when they are complete."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gapgate.errors import storage_errors

_PARTIAL, _REPLACED = "partial", "replaced"


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
    What a killed process leaves is cleaned up by `recover`.

    Raises:
        StorageError: the disk is full, the parent folder is not writable, or a file or a link is at `path`.
    """
    partial = _beside(path)
    with storage_errors(path):
        try:
            _remove(partial)
            partial.mkdir(parents=True)
            yield partial
            _replace(path, partial)
        finally:
            _remove(partial)


def recover(path: Path) -> None:
    """Clean up what killed processes left of `whole_folder(path)`: a folder that was to be replaced takes its name
    again where nothing has it, and the rest is removed. The caller sees to it that no other process writes there now.

    Raises:
        StorageError: the parent folder is not writable.
    """
    with storage_errors(path):
        for left in leftovers(path):
            if left.name.startswith(_name(path, _REPLACED)) and not path.exists():
                left.rename(path)
            _remove(left)


def leftovers(path: Path) -> list[Path]:
    """Files that killed processes, and those at work, have beside `path`."""
    beginnings = _name(path, _PARTIAL), _name(path, _REPLACED)
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    return sorted(entry for entry in beside if entry.name.startswith(beginnings))


def sync(path: Path) -> None:
    """Write the content of a file, or the names in a folder, from the system's cache to the disk."""
    # fsync(2) needs no right to write, and a folder can be opened in no other way.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path, state: str = _PARTIAL) -> Path:
    """Return a hidden name beside `path`, different for each process."""
    # In the same folder, since a rename works within one file system only; with the process's number, so that two
    # processes that write the same file do not write into each other's.
    return path.with_name(f"{_name(path, state)}{os.getpid()}")


def _name(path: Path, state: str) -> str:
    return f".{path.name}.{state}-"


def _replace(path: Path, fresh: Path) -> None:
    """Give a folder the name `path`. The folder that has it goes only afterwards: a process that is killed on the way
    leaves both, or the new one, and never half of the old one."""
    replaced = _beside(path, _REPLACED)
    if path.is_symlink() or path.is_file():
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path))
    if path.exists():
        _remove(replaced)
        # rename(2) replaces only an empty folder: for a moment there is none.
        path.rename(replaced)
    try:
        fresh.rename(path)
    except BaseException:
        if replaced.exists():
            replaced.rename(path)
        raise
    _remove(replaced)


def _remove(path: Path) -> None:
    """Remove a folder, a link or a file, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
