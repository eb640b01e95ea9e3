"""The folder in which a server keeps the model packages that it followed, shared by its worker processes.

One lock serialises every change. A folder in use is held by a shared `flock` on the folder itself, which the kernel
gives back when its process ends, however it ends; what is held is never removed.
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
from gapgate.errors import StorageError, storage_errors

_KEPT = 2
"""Packages that stay beside those in use: the one served, and the one to roll back to."""
_POINTER = "followed-"


class PackageCache:
    """The packages of one model of one registry, below `cache_dir`."""

    def __init__(self, cache_dir: Path, tracking_uri: str, name: str) -> None:
        readable = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]
        self._root = cache_dir.resolve() / f"{readable}-{_short(f'{tracking_uri} {name}')}"
        self._held: dict[Path, int] = {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of this cache; the calls below that change packages need it."""
        with storage_errors(self._root):
            for folder in (self._root.parent, self._root):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_owners()
            with (self._root / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield

    def folder(self, version: str, digest: str) -> Path:
        """Where a package lies, or will."""
        return self._root / f"{version}-{digest.removeprefix('sha256:')[:16]}"

    @contextmanager
    def replacing(self, folder: Path) -> Iterator[Path]:
        """A place to write a package, and files beside it; it becomes `folder` when the block ends well. Nothing else
        is left, and what a killed process left is gone."""
        scratch = self._root / ".partial"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield scratch / "package"
            shutil.rmtree(folder, ignore_errors=True)
            (scratch / "package").rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def hold(self, folder: Path) -> None:
        """Mark `folder` as used now, and as in use until `keep` or the end of this process."""
        os.utime(folder)
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(held, fcntl.LOCK_SH)
        self._let_go(folder)  # of a folder that `replacing` put away, where there was one
        self._held[folder] = held

    def hold_found(self, folder: Path) -> bool:
        """`hold` without the lock, which another process keeps as long as it downloads; False where nothing is there.

        The folder may be put away or replaced until it is held: check what it holds after this, and then `holds`.
        """
        if not folder.is_dir():
            return False
        self._check_owners()
        self.hold(folder)
        return True

    def holds(self, folder: Path) -> bool:
        """Whether the folder that is held still lies at its place."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._held[folder]), folder.stat())
        return False

    def keep(self, folders: list[Path]) -> None:
        """Give back what this process holds, but for `folders`."""
        for folder in [held for held in self._held if held not in folders]:
            self._let_go(folder)

    def prune(self) -> None:
        """Remove the packages that nobody holds or follows, but for the last ones used."""
        followed = self._followed_folders()
        found = [path for path in self._root.iterdir() if path.is_dir() and not path.name.startswith(".")]
        for folder in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)[_KEPT:]:
            if folder not in followed:
                _remove_unheld(folder)

    def follow(self, uri: str, resolved: dict[str, Any]) -> None:
        """Note down the version that `uri` led to, for a start while the registry is away."""
        write_json(self._pointer(uri), resolved)

    def followed(self, uri: str) -> dict[str, Any] | None:
        """What `follow` noted down last, by any process."""
        with suppress(OSError, ValueError, RecursionError):
            content = read_json(self._pointer(uri))
            return content if isinstance(content, dict) else None
        return None

    def _check_owners(self) -> None:
        for folder in (self._root.parent, self._root):
            _check_owner(folder)

    def _pointer(self, uri: str) -> Path:
        return self._root / f"{_POINTER}{_short(uri)}.json"

    def _followed_folders(self) -> set[Path]:
        folders = set()
        for path in self._root.glob(f"{_POINTER}*.json"):
            with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                content = read_json(path)
                folders.add(self.folder(str(content["version"]), str(content["package_digest"])))
        return folders

    def _let_go(self, folder: Path) -> None:
        if (held := self._held.pop(folder, None)) is not None:
            os.close(held)


def _check_owner(folder: Path) -> None:
    """In a folder of somebody else, as one laid out in /tmp before we came, the model could be theirs."""
    if (owner := folder.stat().st_uid) not in (0, os.geteuid()):
        raise StorageError(
            f"{folder} belongs to the user {owner}, not to {os.geteuid()}; choose another GAPGATE_MODEL_CACHE"
        )


def _remove_unheld(folder: Path) -> None:
    found = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return
    finally:
        os.close(found)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
