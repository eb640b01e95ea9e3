"""Data under DVC: its pin, and how it is staged, restored and fetched.

Nothing that a cache or a remote gives is taken before it is hashed, and no file of the user's goes whose content
neither the pin nor DVC's cache has.
"""

from __future__ import annotations

import logging
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from components.platform import dvc_faults
from components.platform.dvc_hashes import Difference, cached, difference, dvc_hash, hashes_of, tracked
from components.platform.source_files import bring, files_of, origin_of
from gapgate.artifacts import write_text
from gapgate.data.hidden import is_litter
from gapgate.data.sources import BUILTINS, write_builtin
from gapgate.errors import DataError
from gapgate.files import leftovers, recover, whole_file, whole_folder
from gapgate.settings.sections import Reading

_SHOWN = 5
"""Names of files in a message."""


@dataclass(frozen=True, slots=True)
class Pin:
    """Content of a `.dvc` file."""

    hash: str
    """DVC's hash: an md5 in hex, with `.dir` at its end for a folder."""
    source: str
    """Built-in data set that rebuilds the files; empty: none does."""
    num_files: int
    size_bytes: int
    algorithm: str
    """Hash of each file: md5, or md5-dos2unix where DVC 2 pinned it."""


@dataclass(frozen=True, slots=True)
class Status:
    """The workspace's data against its pin."""

    pin: Pin | None
    hash: str
    """DVC's hash of the files in the workspace; empty when there are none."""
    difference: Difference | None = None
    """The files in which they differ from the pin; None when the names of the pinned files are not known here."""

    @property
    def is_dirty(self) -> bool:
        """True if there are files and they differ from the pin."""
        return bool(self.hash) and (self.pin is None or self.hash != self.pin.hash)


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
        algorithm = out.get("hash", "md5-dos2unix")
        return Pin(out["md5"], source, out.get("nfiles", 1), out.get("size", 0), algorithm)
    except FileNotFoundError:
        return None
    except (yaml.YAMLError, KeyError, IndexError, TypeError, AttributeError):
        raise DataError(f"{file} is not a DVC file; write it again with `gapgate data add SOURCE`") from None


def status(root: Path, path: str = "data") -> Status:
    """The workspace's data against its pin; reads every file once."""
    data, pin = root / path, pin_of(root, path)
    if leftovers(data):
        with _alone(root, path):
            pass
    if not data.exists():
        return Status(pin, "")
    found = hashes_of(data, pin.algorithm if pin else "md5")
    if pin is None or found.value == pin.hash:
        return Status(pin, found.value)
    with _repository(root) as repo:
        wanted = _pinned_files(pin, root, path, repo)
    return Status(pin, found.value, None if wanted is None else difference(found.files, wanted))


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
    *,
    force: bool = False,
) -> Pin:
    """Replace the workspace's data by a source and pin it with DVC; nothing changes when the source is unusable. `tell`
    is called with what `stage` left out. With `force`, files go that are kept nowhere else.

    Raises:
        DataError: the source is unusable, the folder is no DVC repository, or files would go that are kept nowhere.
    """
    from dvc.repo import Repo

    with _dvc_errors(root):
        repo = Repo(str(root))
    with repo, _alone(root, path):
        with whole_folder(root / path) as fresh:
            tell(stage(source, fresh, link=False, reading=reading))
            if not force:
                _refuse_loss(root, path, repo, fresh, f"pin them with `gapgate data add {path}`, or move them away")
        with _dvc_errors(root):
            repo.add(str(root / path))
        _note_source(root / f"{path}.dvc", source if source in BUILTINS else "")
    pin = pin_of(root, path)
    assert pin is not None
    return pin


def restore(root: Path, path: str = "data", *, force: bool = False) -> Pin:
    """Restore exactly the pinned data: from the built-in data set that made it, else from DVC's cache, else from its
    remote. With `force`, files go that are kept nowhere else.

    Raises:
        DataError: nothing is pinned, the pinned files cannot be had, or files would go that are kept nowhere.
    """
    pin, data = pin_of(root, path), root / path
    if pin is None:
        raise DataError(f"{data}.dvc is not there; pin data with `gapgate data add SOURCE`")
    with _alone(root, path), _repository(root) as repo:
        # A repeated `restore` costs one read of the files and no write.
        if data.exists() and hashes_of(data, pin.algorithm).value == pin.hash:
            return pin
        if not pin.hash.endswith(".dir") and data.is_dir():
            raise DataError(f"{data} is a folder, and a single file is pinned there; move the folder away")
        with (whole_folder if pin.hash.endswith(".dir") else whole_file)(data) as fresh:
            if pin.source:
                _rebuild(pin, fresh)
            else:
                _pull(pin, root, path, fresh)
            if not force:
                _refuse_loss(root, path, repo, fresh, f"pin them with `gapgate data add {path}`, or move them away")
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
        DataError: no such repository, revision or path, or its remote does not have the files, refuses them, or has
            others than are pinned.
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
        try:
            wanted = tracked(fs, path)
        except ValueError as folder:
            raise _wrong(where, [f"the list of the files in {folder}"]) from None
    if wrong := _differing(target, wanted, Path(path).name if info["type"] != "directory" else ""):
        raise _wrong(where, wrong)
    return str(info.get("dvc_info", {}).get("md5") or dvc_hash(target)), str(commit)


def _differing(folder: Path, wanted: Mapping[str, tuple[str, str]], name: str) -> list[str]:
    """Names of the files whose content has another hash; a single file, wanted under an empty name, has `name`."""
    found = {algorithm: hashes_of(folder, algorithm).files for algorithm, _ in wanted.values()}
    return [each for each, (algorithm, value) in wanted.items() if found[algorithm].get(each or name) != value]


def _wrong(where: object, names: Sequence[str]) -> DataError:
    return DataError(
        f"DVC's remote or cache has not the content that is pinned for {_first(names)} of {where}; "
        "`dvc push` it again from where it is whole"
    )


def _rebuild(pin: Pin, fresh: Path) -> None:
    write_builtin(pin.source, fresh)
    if (found := dvc_hash(fresh)) != pin.hash:
        raise DataError(f"the built-in {pin.source} has the hash {found} here, pinned is {pin.hash}; run `dvc pull`")


def _pull(pin: Pin, root: Path, path: str, fresh: Path) -> None:
    """Write the pinned files to `fresh`, from DVC's cache and from its remote what the cache does not have."""
    from dvc.repo import Repo

    target = str((root / f"{path}.dvc").absolute())
    with _dvc_errors(target):
        repo = Repo(str(root))
    with repo, _dvc_errors(target, repo):
        if _fill(pin, repo, target, fresh):
            repo.fetch([target])
            if wrong := _fill(pin, repo, target, fresh):
                raise _wrong(root / path, wrong)


def _fill(pin: Pin, repo: Any, target: str, fresh: Path) -> list[str]:
    """Write what DVC's cache has of the pinned files to `fresh`. Content that has another hash than its name in the
    cache says is removed there. Returns the names of the files that are missing."""
    from dvc_data.hashfile.checkout import CheckoutError, checkout
    from dvc_objects.fs.local import LocalFileSystem

    out = repo.stage.load_one(target).outs[0]
    wanted = cached(out)
    if wanted is None:
        Path(out.cache_path).unlink(missing_ok=True)
        return ["the list of the files"]
    with suppress(CheckoutError, FileNotFoundError):
        checkout(str(fresh), LocalFileSystem(), out.get_obj(), out.cache, force=True)
    found = hashes_of(fresh, pin.algorithm).files if fresh.exists() else {}
    wrong = [name for name, value in wanted.files.items() if found.get(name) != value]
    for name in wrong:
        Path(out.cache.oid_to_path(wanted.files[name])).unlink(missing_ok=True)
    return [name or Path(target).stem for name in wrong]


def _refuse_loss(root: Path, path: str, repo: Any, fresh: Path, remedy: str) -> None:
    """Check that each file of the workspace's data is pinned, in DVC's cache or in `fresh`, which is to replace them.

    Raises:
        DataError: the names of those that are not.
    """
    data, pin = root / path, pin_of(root, path)
    if not data.exists():
        return
    algorithm = pin.algorithm if pin else "md5"
    found = hashes_of(data, algorithm)
    pinned = found.files if pin and found.value == pin.hash else _pinned_files(pin, root, path, repo) or {}
    hashes = {name: found.files.get(name) for name in _names_in(data)}
    unpinned = [name for name, value in hashes.items() if value is None or value != pinned.get(name)]
    lost = [name for name in unpinned if not _is_cached(repo, hashes[name])]
    if lost:
        taken = set(hashes_of(fresh, algorithm).files.values())
        lost = [name for name in lost if hashes[name] not in taken]
    if lost:
        raise DataError(
            f"{data} has {len(lost):,} {'file' if len(lost) == 1 else 'files'} that would be lost, "
            f"since nothing pins them: {_first(lost)}; {remedy}, or give --force"
        )


def _names_in(data: Path) -> Iterator[str]:
    """Names of what lies in the data, without folders and what systems leave there; that of a single file is empty."""
    if not data.is_dir():
        yield ""
    for parent, folders, names in os.walk(data):
        folders[:] = sorted(each for each in folders if not is_litter(each))
        yield from (str(Path(parent, each).relative_to(data)) for each in sorted(names) if not is_litter(each))


def _is_cached(repo: Any, value: str | None) -> bool:
    """True if DVC's cache has content with this md5."""
    place = Path(repo.cache.local.oid_to_path(value)) if repo and value else None
    return place is not None and place.is_file() and hashes_of(place).value == value


def _pinned_files(pin: Pin | None, root: Path, path: str, repo: Any) -> Mapping[str, str] | None:
    """Name → hash of each pinned file; None where no list of them is on this machine."""
    if pin is None:
        return None
    if pin.source:
        with tempfile.TemporaryDirectory() as scratch:
            write_builtin(pin.source, Path(scratch))
            built = hashes_of(Path(scratch))
        return built.files if built.value == pin.hash else None
    if repo is None:
        return None
    with _dvc_errors(root):
        found = cached(repo.stage.load_one(str((root / f"{path}.dvc").absolute())).outs[0])
    return found.files if found else None


@contextmanager
def _repository(root: Path) -> Iterator[Any]:
    """The DVC repository at `root`; None if it is none."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        repo = Repo(str(root))
    except NotDvcRepoError:
        yield None
        return
    with repo:
        yield repo


@contextmanager
def _alone(root: Path, path: str) -> Iterator[None]:
    """Wait until no other process changes the workspace's data, and clean up after those that were killed."""
    # Outside a DVC repository nothing but a built-in data set can be restored.
    scratch = root / ".dvc"
    with FileLock(scratch / "tmp" / "gapgate.lock") if scratch.is_dir() else nullcontext():
        recover(root / path)
        yield


def _first(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN:,} more"


def _note_source(file: Path, source: str) -> None:
    """Write the name of a built-in data set into the `.dvc` file, under `meta`, which DVC leaves to its users."""
    content: dict[str, Any] = yaml.safe_load(file.read_text())
    content.pop("meta", None)
    if source:
        content["meta"] = {"gapgate": {"source": source}}
    write_text(file, yaml.safe_dump(content, sort_keys=False))


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
