"""DVC's hashes of files and folders, computed by DVC's library from the files' content and from nothing that it noted
earlier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any


@dataclass(frozen=True, slots=True)
class Hashes:
    """The hash of a folder or file, and those of its files."""

    value: str
    """The md5 in hex of the list of files, with `.dir` at its end; of a single file, that of its content."""
    files: Mapping[str, str]
    """Path in the folder → md5 of the file; the path of a single file is empty."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Names of the files in which a folder differs from another."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    gone: tuple[str, ...]


def hashes_of(path: Path, algorithm: str = "md5") -> Hashes:
    """The hashes that `dvc add` gives to a folder or file; `algorithm` is md5, or md5-dos2unix for pins of DVC 2. Pipes
    and links to nothing have none."""
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.local import LocalFileSystem
    from dvc_objects.fs.memory import MemoryFileSystem

    # A dry run into a database in memory: DVC computes the hash and writes nothing, so no repository is needed.
    nowhere = HashFileDB(MemoryFileSystem(), "/nowhere")
    _, _, found = build(nowhere, str(path), LocalFileSystem(), algorithm, ignore=_Files(), dry_run=True)
    return _hashes(found)


def dvc_hash(path: Path) -> str:
    """The hash that `dvc add` gives to a folder or file."""
    return hashes_of(path).value


def cached(out: Any) -> Hashes | None:
    """The hashes of a pinned folder or file by DVC's cache, which holds the list of a folder's files; None if it does
    not, or another list. `out` is DVC's output."""
    from dvc_objects.errors import ObjectFormatError

    if not out.hash_info.isdir:
        return Hashes(out.hash_info.value, {"": out.hash_info.value})
    tree = None
    with suppress(ObjectFormatError):
        tree = out.get_obj()
    if tree is None:
        return None
    tree.digest()  # it takes the hash from the list's own name, which the content need not have
    return _hashes(tree) if tree.hash_info.value == out.hash_info.value else None


def discard(cache: Any, value: str) -> bool:
    """Remove the content with this hash from a DVC cache if it has another; returns whether it did."""
    place = Path(cache.oid_to_path(value))
    if not place.is_file() or hashes_of(place, cache.hash_name).value == value:
        return False
    place.unlink()
    return True


def tracked(fs: Any, path: str) -> dict[str, tuple[str, str]] | None:
    """Path below `path` → (algorithm, hash) of each file that DVC tracks in an opened revision of a repository; None if
    a list of files that the cache or the remote gives has another hash than the revision pins."""
    files = {name: info["dvc_info"]["entry"] for name, info in fs.find(path, detail=True).items() if _is_pinned(info)}
    for folder in {str(parent) for name in [path, *files] for parent in PurePosixPath(name).parents} | {path}:
        pinned = fs.info(folder).get("dvc_info", {}).get("md5") if folder not in (".", "/") else None
        # Of a folder DVC pins the md5 of its list of files, with .dir at the end.
        if pinned and pinned.endswith(".dir") and _listed(fs, folder) != pinned:
            return None
    start = len(path.rstrip("/")) + 1
    return {name[start:]: (entry.hash_info.name, entry.hash_info.value) for name, entry in files.items()}


def difference(found: Mapping[str, str], wanted: Mapping[str, str]) -> Difference:
    """The names in which the hashes of two folders differ, sorted."""
    return Difference(
        added=tuple(sorted(found.keys() - wanted.keys())),
        changed=tuple(sorted(name for name in found.keys() & wanted.keys() if found[name] != wanted[name])),
        gone=tuple(sorted(wanted.keys() - found.keys())),
    )


def _hashes(found: Any) -> Hashes:
    from dvc_data.hashfile.tree import Tree

    if not isinstance(found, Tree):
        return Hashes(found.hash_info.value, {"": found.hash_info.value})
    return Hashes(str(found.hash_info.value), {"/".join(key): each.value for key, _, each in found})


def _is_pinned(info: Mapping[str, Any]) -> bool:
    entry = info.get("dvc_info", {}).get("entry")
    return entry is not None and entry.hash_info is not None


def _listed(fs: Any, folder: str) -> str:
    """The hash of the list of files in a tracked folder."""
    from dvc_data.hashfile.tree import Tree

    tree, depth = Tree(), len(PurePosixPath(folder).parts)
    for name, info in fs.find(folder, detail=True).items():
        if _is_pinned(info):
            tree.add(PurePosixPath(name).parts[depth:], None, info["dvc_info"]["entry"].hash_info)
    tree.digest()
    return str(tree.hash_info.value)


class _Files:
    """A filter for DVC that lets nothing but files pass: it would wait for ever at the end of a pipe, and it stops at a
    `.dvcignore` in the data."""

    def walk(self, fs: Any, path: str, **options: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        for parent, folders, names in fs.walk(path, **options):
            files = [name for name in names if name != ".dvcignore" and Path(parent, name).is_file()]
            yield parent, folders, files

    def find(self, fs: Any, path: str) -> Iterator[str]:
        yield from (f"{parent}/{name}" for parent, _, names in self.walk(fs, path) for name in names)
