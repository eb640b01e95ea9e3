"""Data under DVC: its pin, its hash, and how it is staged, restored and fetched.

The hash of a folder is DVC's own (the md5 of its list of md5s and paths), computed by DVC's library; it is the same
whether DVC tracks the folder or not.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.platform import dvc_faults
from gapgate.data.sources import BUILTINS, is_hidden, open_source, table_files, write_builtin
from gapgate.errors import DataError
from gapgate.files import whole_folder
from gapgate.settings.sections import Reading


@dataclass(frozen=True, slots=True)
class Pin:
    """Content of a `.dvc` file."""

    hash: str
    """DVC's hash: an md5 in hex, with `.dir` at its end for a folder."""
    source: str
    """Built-in data set that rebuilds the files; empty: none does."""
    num_files: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Status:
    """The workspace's data against its pin."""

    pin: Pin | None
    hash: str
    """DVC's hash of the files in the workspace; empty when there are none."""

    @property
    def is_dirty(self) -> bool:
        """True if there are files and they differ from the pin."""
        return bool(self.hash) and (self.pin is None or self.hash != self.pin.hash)


def dvc_hash(path: Path) -> str:
    """The hash that `dvc add` gives to a folder or file."""
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.local import LocalFileSystem
    from dvc_objects.fs.memory import MemoryFileSystem

    # A dry run into a database in memory: DVC computes the hash and writes nothing, so no repository is needed.
    nowhere = HashFileDB(MemoryFileSystem(), "/nowhere")
    _, _, tree = build(nowhere, str(path), LocalFileSystem(), "md5", dry_run=True)
    return str(tree.hash_info.value)


def pin_of(root: Path, path: str = "data") -> Pin | None:
    """The pin in `<path>.dvc` of the folder `root`; None when there is no such file.

    Raises:
        DataError: the file is not a DVC file of one folder.
    """
    file = root / f"{path}.dvc"
    try:
        content = yaml.safe_load(file.read_text())
        out = content["outs"][0]
        source = content.get("meta", {}).get("gapgate", {}).get("source", "")
        return Pin(out["md5"], source, out.get("nfiles", 1), out.get("size", 0))
    except FileNotFoundError:
        return None
    except (yaml.YAMLError, KeyError, IndexError, TypeError, AttributeError):
        raise DataError(f"{file} is not a DVC file; write it again with `gapgate data add SOURCE`") from None


def status(root: Path, path: str = "data") -> Status:
    """The workspace's data against its pin; reads every file once."""
    data = root / path
    return Status(pin_of(root, path), dvc_hash(data) if data.exists() else "")


def stage(source: str, target: Path, *, link: bool, reading: Reading = Reading()) -> list[dict[str, str]]:  # noqa: B008
    """Write the files of a source into the empty folder `target`: a built-in by name, a folder, or a single file (a
    table brings the images that it names). Hidden files stay behind. With `link`, files are hard links where the disk
    allows it; the digests of an artifact tell when a file was changed through its other name.

    Names that are not UTF-8 are written as such. Links to nowhere, loops and what is no file are left out.

    Returns:
        Name and reason of each entry that is left out.

    Raises:
        DataError: there is no such source, or it is empty.
    """
    if source in BUILTINS and not Path(source).exists():
        write_builtin(source, target)
        return []
    left_out: list[dict[str, str]] = []
    for file, name in _files_of(_origin(source), reading, left_out):
        _bring(file, target / name, link)
    if not any(target.iterdir()):
        raise DataError(f"{source} holds no files; give it one folder of images for each class")
    return left_out


def add(
    source: str,
    root: Path,
    path: str = "data",
    reading: Reading = Reading(),  # noqa: B008 (frozen)
    tell: Callable[[list[dict[str, str]]], None] = lambda left_out: None,
) -> Pin:
    """Replace the workspace's data by a source and pin it with DVC; nothing changes when the source is unusable. `tell`
    is called with what `stage` left out.

    Raises:
        DataError: the source is unusable, or the folder is no DVC repository.
    """
    from dvc.repo import Repo

    with _dvc_errors(root):
        repo = Repo(str(root))
    with repo:
        with whole_folder(root / path) as fresh:
            tell(stage(source, fresh, link=False, reading=reading))
        with _dvc_errors(root):
            repo.add(str(root / path))
    _note_source(root / f"{path}.dvc", source if source in BUILTINS else "")
    pin = pin_of(root, path)
    assert pin is not None
    return pin


def restore(root: Path, path: str = "data") -> Pin:
    """Restore exactly the pinned data: from the built-in data set that made it, else from DVC's cache, else from its
    remote.

    Raises:
        DataError: nothing is pinned, or the pinned files cannot be had.
    """
    pin = pin_of(root, path)
    if pin is None:
        raise DataError(f"{root / path}.dvc is not there; pin data with `gapgate data add SOURCE`")
    # A repeated `restore` costs one read of the files and no write.
    if (root / path).exists() and dvc_hash(root / path) == pin.hash:
        return pin
    if pin.source:
        _rebuild(pin, root / path)
    else:
        _pull(pin, root, path)
    return pin


def hash_of_source(source: str, reading: Reading = Reading()) -> str:  # noqa: B008 (frozen)
    """The hash that the files of a folder or single file have when they are staged; each is read, and none copied.

    Raises:
        DataError: there is no such source.
    """
    origin = _origin(source)
    with tempfile.TemporaryDirectory() as scratch:
        for file, name in _files_of(origin, reading, []):
            place = Path(scratch, name)
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.is_symlink():  # a table may name a file twice
                place.symlink_to(file.resolve())
        return dvc_hash(Path(scratch))


def locate(repository: str, revision: str, path: str) -> tuple[str, str]:
    """The commit of a repository's revision, and the hash of what DVC tracks at `path` there; the hash is empty where
    git itself tracks the files. No data is fetched.

    Raises:
        DataError: no such repository, revision or path.
    """
    from dvc.api import DVCFileSystem

    with _dvc_errors(f"{path} at {revision or 'HEAD'} of {repository}"):
        fs = DVCFileSystem(repository, rev=revision or None)
        found = fs.info(path).get("dvc_info", {}).get("md5")
        return str(fs.repo.get_rev()), str(found or "")


def fetch(repository: str, revision: str, path: str, target: Path) -> tuple[str, str]:
    """Copy what DVC tracks at `path` of a repository's revision into the empty folder `target`; return its hash and the
    commit.

    Raises:
        DataError: no such repository, revision or path, or its remote does not have the files or refuses them.
        RemoteAwayError: the repository or its remote does not answer.
    """
    from dvc.api import DVCFileSystem

    where = f"{path} at {revision or 'HEAD'} of {repository}"
    with _dvc_errors(where):
        # The revision is read without a checkout, so a repository on this machine stays as it is.
        fs = DVCFileSystem(repository, rev=revision or None)
        repo = fs.repo
    with _dvc_errors(where, repo):
        info = fs.info(path)
        source = f"{path}/" if info["type"] == "directory" else path  # the folder's content, not the folder
        fs.get(source, str(target), recursive=True)
        commit = repo.get_rev()
    return str(info.get("dvc_info", {}).get("md5") or dvc_hash(target)), str(commit)


def _rebuild(pin: Pin, data: Path) -> None:
    with whole_folder(data) as fresh:
        write_builtin(pin.source, fresh)
        if (found := dvc_hash(fresh)) != pin.hash:
            raise DataError(
                f"the built-in {pin.source} has the hash {found} here, pinned is {pin.hash}; run `dvc pull`"
            )


def _pull(pin: Pin, root: Path, path: str) -> None:
    from dvc.exceptions import CheckoutError
    from dvc.repo import Repo

    target = str((root / f"{path}.dvc").absolute())
    with _dvc_errors(target):
        repo = Repo(str(root))
    with repo, _dvc_errors(target, repo):
        with suppress(CheckoutError):  # the cache lacks files
            repo.checkout([target], force=True)
        # A checkout of a partly filled cache leaves some files behind, so the hash decides and not the exception.
        if not (root / path).exists() or dvc_hash(root / path) != pin.hash:
            repo.pull([target], force=True)


def _note_source(file: Path, source: str) -> None:
    """Write the name of a built-in data set into the `.dvc` file, under `meta`, which DVC leaves to its users."""
    content: dict[str, Any] = yaml.safe_load(file.read_text())
    content.pop("meta", None)
    if source:
        content["meta"] = {"gapgate": {"source": source}}
    file.write_text(yaml.safe_dump(content, sort_keys=False))


def _origin(source: str) -> Path:
    """The path of a source.

    Raises:
        DataError: there is none, or it is no folder or file.
    """
    origin = Path(source)
    if not origin.exists():
        raise DataError(f"no such folder or file: {source}; name one, or a built-in data set ({', '.join(BUILTINS)})")
    if not origin.is_dir() and not origin.is_file():
        raise DataError(f"{source} is a pipe or a device; name a folder or a file")
    return origin


def _files_of(origin: Path, reading: Reading, left_out: list[dict[str, str]]) -> Iterator[tuple[Path, str]]:
    """Each file of a source with its path in the data set, without hidden files; name and reason of what is no file
    are added to `left_out`.

    Raises:
        DataError: a file name has a line break, which the file list of the artifact could not hold.
    """
    if origin.is_file():
        yield from ((origin.parent / name, name) for name in _names_with(origin, reading))
        return
    # Folders that are being walked: one that is met again below itself is a loop of links.
    above = {_identity(origin): ""}
    yield from _walk(origin, "", above, left_out)


def _walk(folder: Path, name: str, above: dict[Any, str], left_out: list[dict[str, str]]) -> Iterator[tuple[Path, str]]:
    """`_files_of` below a folder that is called `name` in the data set: its files by name, then its folders."""
    if not os.access(folder, os.R_OK | os.X_OK):
        raise DataError(f"cannot read {folder}: no permission; change its owner or its mode")
    entries = sorted((entry for entry in folder.iterdir() if not is_hidden(entry.name)), key=lambda entry: entry.name)
    for entry in sorted(entries, key=Path.is_dir):
        within = f"{name}/{_utf8(entry.name)}" if name else _utf8(entry.name)
        if "\n" in entry.name or "\r" in entry.name:
            raise DataError(f"{folder}/{entry.name!r}: a file name with a line break; rename it")
        if (utf8 := _utf8(entry.name)) != entry.name and (folder / utf8).exists():
            raise DataError(
                f"{folder}: two entries are called {utf8}, one of them in bytes that are not UTF-8; rename it"
            )
        if fault := _fault(entry):
            left_out.append({"name": within, "reason": fault})
        elif not entry.is_dir():
            yield entry, within
        elif (identity := _identity(entry)) in above:
            reason = f"a link to {above[identity] or 'the data set'}, in which it lies; remove it"
            left_out.append({"name": within, "reason": reason})
        else:
            yield from _walk(entry, within, {**above, identity: within}, left_out)


def _fault(entry: Path) -> str:
    """Reason why an entry of a folder is neither a file nor a folder; empty if it is one."""
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        return "a link to nothing; remove it" if entry.is_symlink() else f"cannot be read: {error.strerror}"
    if stat.S_ISREG(mode) and not os.access(entry, os.R_OK):
        return "no permission to read it; change its owner or its mode"
    return "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "a pipe or a device; remove it"


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _utf8(name: str) -> str:
    """A file's name in UTF-8. Bytes that are none come from old archives, most of them of Windows; Python holds them as
    surrogates, which neither a table nor JSON can."""
    raw = os.fsencode(name)
    for encoding in ("utf-8", "cp1252"):
        with suppress(UnicodeDecodeError):
            return raw.decode(encoding)
    return raw.decode("utf-8", "backslashreplace")


def _names_with(file: Path, reading: Reading) -> Iterator[str]:
    """Names of a single source file and the files that it needs: a table's images, an archive's class names."""
    yield file.name
    if file.suffix.lower() == ".npz":
        yield from (name for name in ["classes.txt"] if (file.parent / name).exists())
    elif file.suffix.lower() != ".zip" and not _holds_images(file, reading):
        with tempfile.TemporaryDirectory() as scratch:
            yield from (record.locator for record in open_source(file, Path(scratch), reading).records())


def _holds_images(file: Path, reading: Reading) -> bool:
    """True for a table with the images in it."""
    return file.suffix.lower() in table_files.SUFFIXES and bool(table_files.read_table(file, reading).images)


def _bring(file: Path, place: Path, link: bool) -> None:
    if place.exists():  # a table may name a file twice
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    if link:
        with suppress(OSError):  # another file system, a file of another owner, or one that has too many links
            return os.link(file.resolve(), place)
    shutil.copyfile(file, place)


@contextmanager
def _dvc_errors(what: object, repo: Any = None) -> Iterator[None]:
    """Turn what git and DVC raise into a `DataError`; `repo` is the opened repository, where its remote is asked."""
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.scm import SCMError
    from dvc_data.index import DataIndexDirError

    # The one prints a hint on `git add`, the other that DVC leaves its sessions open.
    for name in ("dvc", "aiohttp_retry"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    except NotDvcRepoError:
        raise DataError(f"{what} is no DVC repository; run `git init` and `dvc init` there first") from None
    except Exception as error:
        found = dvc_faults.remote_fault(error, what, repo) if repo else dvc_faults.git_fault(error, what)
        if found is None and isinstance(error, DataIndexDirError):
            found = DataError(f"the DVC remote does not have the files of {what}; run `dvc push` where they are")
        if found is None and not isinstance(error, (DvcException, SCMError, FileNotFoundError)):
            raise
        # Context and frames keep DVC's repository open until Python ends, when git's files print warnings.
        error.__context__ = error.__cause__ = None
        traceback.clear_frames(error.__traceback__)
        raise found or DataError(f"DVC cannot get {what}: {' '.join(str(error).split())}") from None
