"""A cache of model packages on disk, shared by the worker processes of a server.

One exclusive lock serialises every change. A process that uses a folder holds a shared `flock` on the folder itself,
which the kernel releases when the process ends, by SIGKILL too; `prune` removes no folder that is held.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gapgate.artifacts import read_json, write_json
from gapgate.errors import ArtifactError, StorageError, storage_errors

_KEPT = 2
"""Number of packages used last that `prune` keeps: the one served, and the one to roll back to."""
_DOWNLOAD = ".download-"
"""Beginning of the names of the folders in which `archive` keeps a download; the dot keeps them out of `prune`."""
_POINTER = "followed-"
"""Beginning of the names of the files that `follow` writes."""


class PackageCache:
    """The packages of one model of one registry, below `cache_dir`."""

    def __init__(self, cache_dir: Path, tracking_uri: str, name: str) -> None:
        # The hash tells names apart that are equal after the replacement, and equal names of two servers.
        readable = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]
        self._root = cache_dir.resolve() / f"{readable}-{_short(f'{tracking_uri} {name}')}"
        self._held: dict[Path, int] = {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the exclusive lock of this cache; `replacing` and `prune` need it."""
        with storage_errors(self._root):
            for folder in (self._root.parent, self._root):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # `mkdir` takes a folder that exists as it is, with any owner and mode, so the owner is checked after it.
            self._check_owner()
            # The lock file is never removed: a second process could then lock another file of the same name.
            with (self._root / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield

    def folder(self, version: str, digest: str) -> Path:
        """Return the folder of a package, whether it is there or not."""
        return self._root / f"{version}-{digest.removeprefix('sha256:')[:16]}"

    @contextmanager
    def replacing(self, folder: Path) -> Iterator[Path]:
        """Give a place to write a package; it becomes `folder` if the block succeeds.

        Nothing else is left behind. The caller holds the lock.
        """
        # One name for all: the lock admits one writer at a time, and the next one removes what a killed one left. The
        # dot keeps it out of `prune`.
        scratch = self._root / ".partial"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield scratch / "package"
            # rename(2) replaces only an empty folder. A damaged package at this place goes first; files of it that a
            # process has mapped stay readable there.
            shutil.rmtree(folder, ignore_errors=True)
            (scratch / "package").rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    @contextmanager
    def archive(self, key: str) -> Iterator[Path]:
        """Give the file for a download, with what an earlier one of the same `key` left; the caller holds the lock.

        If the block fails, or its process is killed, the next one goes on from there. The file goes if the block
        succeeds, finds a fault in it, or has no room on the disk.
        """
        place = self._root / f"{_DOWNLOAD}{_short(key)}"
        for other in self._root.glob(f"{_DOWNLOAD}*"):
            if other != place:
                shutil.rmtree(other, ignore_errors=True)
        place.mkdir(exist_ok=True)
        try:
            yield place / "model.bento"
        except (ArtifactError, StorageError):
            shutil.rmtree(place, ignore_errors=True)
            raise
        shutil.rmtree(place, ignore_errors=True)

    def hold(self, folder: Path) -> None:
        """Mark `folder` as used now, and hold it until `keep` or the end of this process.

        Without the lock, another process may remove or replace the folder until it is held. Then verify its files
        first, and call `holds` afterwards.
        """
        self._check_owner()
        os.utime(folder)  # `prune` removes the package used longest ago
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(held, fcntl.LOCK_SH)
        # The new hold before the old one ends: another process must not find the folder unheld in between. The old one
        # may be on a folder that `replacing` has removed since.
        self._let_go(folder)
        self._held[folder] = held

    def holds(self, folder: Path) -> bool:
        """True if the folder that this process holds is still the one at its path."""
        # The open file descriptor keeps the inode, so a folder that was replaced cannot have the same number.
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._held[folder]), folder.stat())
        return False

    def keep(self, folders: list[Path]) -> None:
        """Release all folders that this process holds, except `folders`."""
        for folder in [held for held in self._held if held not in folders]:
            self._let_go(folder)

    def prune(self) -> None:
        """Remove the packages that no process holds or follows, except the `_KEPT` used last; needs the lock."""
        followed = self._followed_folders()
        found = [path for path in self._root.iterdir() if path.is_dir() and not path.name.startswith(".")]
        for folder in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)[_KEPT:]:
            if folder not in followed:
                _remove_unheld(folder)

    def follow(self, uri: str, resolved: dict[str, Any]) -> None:
        """Store the version that `uri` led to, for a start while the registry is away."""
        write_json(self._pointer(uri), resolved)

    def followed(self, uri: str) -> dict[str, Any] | None:
        """Return the version that `follow` stored last, in any process; None if there is none or it cannot be read."""
        with suppress(OSError, ArtifactError, RecursionError):
            content = read_json(self._pointer(uri))
            return content if isinstance(content, dict) else None
        return None

    def _check_owner(self) -> None:
        """Refuse a cache of another user, who could put a model of their own into it: the default one is below /tmp,
        where anybody can make a folder of its name first."""
        own = os.geteuid()
        for folder in (self._root.parent, self._root):
            if (owner := folder.stat().st_uid) not in (0, own):
                raise StorageError(
                    f"{folder} belongs to the user {owner}, not to {own}; choose another GAPGATE_MODEL_CACHE"
                )

    def _pointer(self, uri: str) -> Path:
        return self._root / f"{_POINTER}{_short(uri)}.json"

    def _followed_folders(self) -> set[Path]:
        folders = set()
        # A file that cannot be read protects nothing: garbage in it must not stop every later download.
        for path in self._root.glob(f"{_POINTER}*.json"):
            with suppress(OSError, ArtifactError, KeyError, TypeError, RecursionError):
                content = read_json(path)
                folders.add(self.folder(str(content["version"]), str(content["package_digest"])))
        return folders

    def _let_go(self, folder: Path) -> None:
        if (held := self._held.pop(folder, None)) is not None:
            os.close(held)


def _remove_unheld(folder: Path) -> None:
    found = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # flock(2) belongs to the open file, not to the process: a hold of this process refuses it as well. LOCK_NB,
        # because a holder may keep its folder for as long as it lives.
        with suppress(BlockingIOError):
            fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(found)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
