"""The workspace's data: compared with their pin, replaced and pinned, and restored.

No file goes whose content neither the pin nor DVC's cache has, unless that is asked for, and an interruption leaves the
old data or the new.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from components.platform.data import dvc_faults
from components.platform.data.dvc_data import (
    Pin,
    dvc_errors,
    first_of,
    no_repository,
    pin_of,
    pinned,
    stage,
    wrong_content,
)
from components.platform.data.dvc_hashes import Difference, cached, difference, discard, dvc_hash, hashes_of
from gapgate.artifacts import write_text
from gapgate.data.sources import BUILTINS, write_builtin
from gapgate.errors import DataError, storage_errors
from gapgate.files import leftovers, recover, whole_file, whole_folder
from gapgate.hidden import is_hidden, is_litter
from gapgate.settings.sections import Reading


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


def status(root: Path, path: str = "data") -> Status:
    """The workspace's data against its pin; reads every file once."""
    data = root / path
    # The lock alone recovers what a killed process left: perhaps all of the data, under another name.
    if leftovers(data):
        with _alone(root, path):
            pass
    return compare(data, root, path)


def compare(data: Path, root: Path, path: str) -> Status:
    """A folder or file against the pin of `path` in the workspace `root`; reads every file once."""
    pin = pin_of(root, path)
    if not data.exists():
        return Status(pin, "")
    found = hashes_of(data, pin.algorithm if pin else "md5")
    if pin is None or found.value == pin.hash:
        return Status(pin, found.value)
    with _repository(root) as repo:
        wanted = _pinned_files(pin, root, path, repo)
    return Status(pin, found.value, None if wanted is None else difference(found.files, wanted))


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
    with _repository(root) as repo, _alone(root, path):
        if repo is None:
            raise no_repository(root)
        with whole_folder(root / path) as fresh:
            tell(stage(source, fresh, link=False, reading=reading))
            if not force:
                _refuse_loss(root, path, repo, fresh)
        with dvc_errors(root):
            # After the rename: DVC pins what lies at its final place.
            repo.add(str(root / path))
        _note_source(root / f"{path}.dvc", source if source in BUILTINS else "")
    return pinned(root, path)


def restore(root: Path, path: str = "data", *, force: bool = False) -> Pin:
    """Restore exactly the pinned data: from the built-in data set that made it, else from DVC's cache, else from its
    remote. With `force`, files go that are kept nowhere else.

    Raises:
        DataError: nothing is pinned, the pinned files cannot be had, or files would go that are kept nowhere.
    """
    pin, data = pinned(root, path), root / path
    with _alone(root, path):
        # A repeated `restore` costs one read of the files and no write.
        if data.exists() and hashes_of(data, pin.algorithm).value == pin.hash:
            return pin
        if not pin.hash.endswith(".dir") and data.is_dir():
            raise DataError(f"{data} is a folder, and a single file is pinned there; move the folder away")
        place = whole_folder if pin.hash.endswith(".dir") else whole_file
        with _repository(root) as repo, place(data) as fresh:
            if pin.source:
                _rebuild(pin, fresh)
            else:
                _pull(pin, repo, root / f"{path}.dvc", fresh)
            if not force:
                _refuse_loss(root, path, repo, fresh)
    return pin


def _rebuild(pin: Pin, fresh: Path) -> None:
    write_builtin(pin.source, fresh)
    if (found := dvc_hash(fresh)) != pin.hash:
        raise DataError(f"the built-in {pin.source} has the hash {found} here, pinned is {pin.hash}; run `dvc pull`")


def _pull(pin: Pin, repo: Any, file: Path, fresh: Path) -> None:
    """Write the pinned files to `fresh`, from DVC's cache and from its remote what the cache does not have."""
    target = str(file.absolute())
    if repo is None:
        raise no_repository(target)
    with dvc_errors(target, repo, partial(_absent, pin, repo, target)):
        # From the cache alone: a restore of what is here needs no network.
        wrong = _fill(pin, repo, target, fresh)
        if wrong:
            repo.fetch([target])
            wrong = _fill(pin, repo, target, fresh)
    if wrong:
        error = wrong_content(file.with_suffix(""), wrong)
        # DVC tells nothing where the remote refuses.
        raise dvc_faults.remote_fault(error, target, repo, _absent(pin, repo, target)) or error


def _absent(pin: Pin, repo: Any, target: str) -> list[str]:
    """Hashes of the pinned files that DVC's cache does not have; of the list of the files, where that is missing."""
    out = repo.stage.load_one(target).outs[0]
    wanted = cached(out)
    return [value for value in wanted.files.values() if not out.cache.exists(value)] if wanted else [pin.hash]


def _fill(pin: Pin, repo: Any, target: str, fresh: Path) -> list[str]:
    """Write what DVC's cache has of the pinned files to `fresh`. Content that has another hash than its name in the
    cache says is removed there. Returns the names of the files that are missing."""
    from dvc_data.hashfile.checkout import CheckoutError, checkout
    from dvc_objects.fs.local import LocalFileSystem

    out = repo.stage.load_one(target).outs[0]
    wanted = cached(out)
    if wanted is None:
        # Damaged: DVC fetches only what is not there at all.
        Path(out.cache_path).unlink(missing_ok=True)
        repo.drop_data_index()  # where DVC keeps the list too
        return ["the list of the files"]
    with suppress(CheckoutError, FileNotFoundError):
        checkout(str(fresh.absolute()), LocalFileSystem(), out.get_obj(), out.cache, force=True)
    found = hashes_of(fresh, pin.algorithm).files if fresh.exists() else {}
    wrong = [name for name, value in wanted.files.items() if found.get(name) != value]
    for name in wrong:
        discard(out.cache, wanted.files[name])
    return [name or Path(target).stem for name in wrong]


def _refuse_loss(root: Path, path: str, repo: Any, fresh: Path) -> None:
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
        # `stage` takes no hidden file.
        can_be_pinned = all(hashes[name] and not any(map(is_hidden, name.split("/"))) for name in lost)
        pinning = f"pin them with `gapgate data add {path}`, " if can_be_pinned else ""
        raise DataError(
            f"{data} has {len(lost):,} {'file' if len(lost) == 1 else 'files'} that would be lost, since nothing pins "
            f"them: {first_of([name or data.name for name in lost])}; {pinning}move them away, or give --force"
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
    with dvc_errors(root):
        found = cached(repo.stage.load_one(str((root / f"{path}.dvc").absolute())).outs[0])
    return found.files if found else None


@contextmanager
def _repository(root: Path) -> Iterator[Any]:
    """The DVC repository at `root`; None if it is none."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    with dvc_errors(root):
        try:
            repo = Repo(str(root))
        except NotDvcRepoError:
            repo = None
    with repo or nullcontext():
        yield repo


@contextmanager
def _alone(root: Path, path: str) -> Iterator[None]:
    """Wait until no other process changes the workspace's data, and clean up after those that were killed."""
    # Outside a DVC repository nothing but a built-in data set can be restored.
    scratch = root / ".dvc"
    with ExitStack() as held:
        with storage_errors(scratch):
            held.enter_context(FileLock(scratch / "tmp" / "gapgate.lock") if scratch.is_dir() else nullcontext())
        recover(root / path)
        yield


def _note_source(file: Path, source: str) -> None:
    """Write the name of a built-in data set into the `.dvc` file, under `meta`, which DVC leaves to its users."""
    content: dict[str, Any] = yaml.safe_load(file.read_text())
    content.pop("meta", None)
    if source:
        content["meta"] = {"gapgate": {"source": source}}
    write_text(file, yaml.safe_dump(content, sort_keys=False))
