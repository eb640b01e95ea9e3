"""Data under DVC: its pin, its hash, and how it is staged, restored and fetched.

The hash of a folder is DVC's own (the md5 of its list of md5s and paths), computed by DVC's library; it is the same
whether DVC tracks the folder or not.
"""

from __future__ import annotations

import logging
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.platform import dvc_faults
from components.platform.source_files import bring, files_of, origin_of
from gapgate.data.sources import BUILTINS, write_builtin
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
    for file, name in files_of(origin_of(source), reading, left_out):
        bring(file, target / name, link)
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
    origin = origin_of(source)
    with tempfile.TemporaryDirectory() as scratch:
        for file, name in files_of(origin, reading, []):
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
