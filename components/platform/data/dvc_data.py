"""Data under DVC: its pin, and how it is staged and fetched. What a cache or a remote gives is hashed before use."""

from __future__ import annotations

import logging
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.platform.data import dvc_faults
from components.platform.data.dvc_hashes import discard, dvc_hash, hashes_of, tracked
from components.platform.data.source_files import bring, files_of, origin_of
from gapgate.data.sources import BUILTINS, write_builtin
from gapgate.errors import DataError
from gapgate.settings.sections import Reading
from gapgate.text import printable

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
        # DVC 3 names the hash; a pin of DVC 2 has no such entry.
        algorithm = out.get("hash", "md5-dos2unix")
        return Pin(out["md5"], source, out.get("nfiles", 1), out.get("size", 0), algorithm)
    except FileNotFoundError:
        return None
    except (yaml.YAMLError, KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError):
        raise DataError(f"{file} is not a DVC file; write it again with `gapgate data add SOURCE`") from None


def pinned(root: Path, path: str = "data") -> Pin:
    """The pin in `<path>.dvc` of the folder `root`.

    Raises:
        DataError: there is no such file, or it is not a DVC file of one folder.
    """
    if (pin := pin_of(root, path)) is None:
        file = root / f"{path}.dvc"
        raise DataError(
            f"{file} is not there; name a source, as `gapgate run FOLDER`, or pin one: `gapgate data add FOLDER`"
        )
    return pin


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
        why = "".join(f" but {printable(each['name'])} ({each['reason']})" for each in left_out[:1])
        raise DataError(f"{source} holds no files{why}; give it one folder of images for each class")
    return left_out


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

    with dvc_errors(f"{path} at {revision or 'HEAD'} of {repository}"):
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
    with dvc_errors(where):
        # The revision is read without a checkout, so a repository on this machine stays as it is.
        fs = DVCFileSystem(repository, rev=revision or None)
        repo = fs.repo
    # What is wrong in the cache is taken from the remote.
    caches = {"md5": repo.cache.local, "md5-dos2unix": repo.cache.legacy}
    with dvc_errors(where, repo):
        info = fs.info(path)
        commit = repo.get_rev()
        wanted = tracked(fs, path)
    if wanted is None:
        repo.drop_data_index()  # where DVC keeps the list, for the next call too
        raise wrong_content(where, ["the list of the files"])
    pinned = [(caches[algorithm], value) for algorithm, value in wanted.values()]
    with dvc_errors(where, repo, lambda: [value for cache, value in pinned if not cache.exists(value)]):
        name = "" if info["type"] == "directory" else Path(path).name
        source = path if name else f"{path}/"  # the folder's content, not the folder
        fs.get(source, str(target), recursive=True)
        wrong = _differing(target, wanted, name)
        # `sum` and not `any`: all of them are to go, not only the first.
        if sum(discard(caches[algorithm], value) for algorithm, value in wrong.values()):
            fs.get(source, str(target), recursive=True)
            wrong = _differing(target, wanted, name)
    if wrong:
        raise wrong_content(where, list(wrong))
    return str(info.get("dvc_info", {}).get("md5") or dvc_hash(target)), str(commit)


def no_repository(what: object) -> DataError:
    """The error for a folder that is no DVC repository."""
    return DataError(f"{what} is no DVC repository; run `git init` and `dvc init` there first")


def wrong_content(where: object, names: Sequence[str]) -> DataError:
    """The error for files whose content is not there, or is not what is pinned."""
    return DataError(
        f"DVC's remote or cache has not the content that is pinned for {first_of(names)} of {where}; "
        "`dvc push` it again from where it is whole"
    )


@contextmanager
def dvc_errors(what: object, repo: Any = None, missing: Callable[[], Sequence[str]] = tuple) -> Iterator[None]:
    """Turn what git and DVC raise into a `DataError`; `repo` is the opened repository, where its remote is asked, and
    `missing` gives the hashes that the cache does not have."""
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.scm import SCMError
    from dvc_data.index import DataIndexDirError
    from dvc_objects.errors import ObjectFormatError

    # They print a hint on `git add`, what a remote does not have, and that DVC leaves its sessions open.
    for name in ("dvc", "dvc_data", "aiohttp_retry"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    except NotDvcRepoError:
        raise no_repository(what) from None
    except Exception as error:
        absent = missing()
        found = dvc_faults.remote_fault(error, what, repo, absent) if repo else dvc_faults.git_fault(error, what)
        if found is None and isinstance(error, ObjectFormatError):
            found = wrong_content(what, ["the list of the files"])
        if found is None and (absent or isinstance(error, DataIndexDirError)):
            found = DataError(f"the DVC remote does not have the files of {what}; run `dvc push` where they are")
        if found is None and not isinstance(error, (DvcException, SCMError, FileNotFoundError)):
            raise
        # Context and frames keep DVC's repository open until Python ends, when git's files print warnings.
        error.__context__ = error.__cause__ = None
        traceback.clear_frames(error.__traceback__)
        raise found or DataError(f"DVC cannot get {what}: {' '.join(str(error).split())}") from None


def _differing(folder: Path, wanted: Mapping[str, tuple[str, str]], name: str) -> dict[str, tuple[str, str]]:
    """The files that have another hash than is wanted; a single file, wanted under an empty name, has `name`."""
    found = {algorithm: hashes_of(folder, algorithm).files for algorithm, _ in wanted.values()}
    return {
        each or name: (algorithm, value)
        for each, (algorithm, value) in wanted.items()
        if found[algorithm].get(each or name) != value
    }


def first_of(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    shown = ", ".join(map(printable, names[:_SHOWN]))
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN:,} more"
