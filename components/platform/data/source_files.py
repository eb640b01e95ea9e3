"""Files of a source as they lie on a disk: links are followed, what is no file is left out, and names become UTF-8."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gapgate.data.sources import BUILTINS, open_source
from gapgate.data.sources.folders import has_loose_images
from gapgate.data.sources.tables import table_files
from gapgate.errors import DataError
from gapgate.hidden import is_hidden, is_hidden_by_user, is_litter
from gapgate.settings.sections import Reading
from gapgate.text import redacted, shortened


def origin_of(source: str) -> Path:
    """The path of a source.

    Raises:
        DataError: there is none, or it is no folder or file.
    """
    origin = Path(source)
    if "://" in source and not origin.exists():
        raise DataError(f"{redacted(source)} is a URL; download the data and name the folder or the file")
    if not origin.exists():
        raise DataError(f"no such folder or file: {source}; name one, or a built-in data set ({', '.join(BUILTINS)})")
    if not origin.is_dir() and not origin.is_file():
        raise DataError(f"{source} is a pipe or a device; name a folder or a file")
    return origin


def files_of(origin: Path, reading: Reading, left_out: list[dict[str, str]]) -> Iterator[tuple[Path, str]]:
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
    with _length_named(origin):
        yield from _walk(origin, "", above, left_out)


@contextmanager
def _length_named(file: Path) -> Iterator[None]:
    """Turn the system's refusal of a path that is too long into a `DataError`."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        name = shortened(str(error.filename or file), 120)
        raise DataError(f"{name} is too long a path for this system; shorten the names of its folders") from None


def _walk(folder: Path, name: str, above: dict[Any, str], left_out: list[dict[str, str]]) -> Iterator[tuple[Path, str]]:
    """`files_of` below a folder that is called `name` in the data set: its files by name, then its folders."""
    if not os.access(folder, os.R_OK | os.X_OK):
        raise DataError(f"cannot read {folder}: no permission; change its owner or its mode")
    # By scandir, which knows what most entries are without asking the disk for each.
    with os.scandir(folder) as found:
        entries = sorted((_is_folder(entry), entry.name, entry) for entry in found if not is_litter(entry.name))
    for is_folder, own_name, entry in entries:
        path, utf8 = folder / own_name, _utf8(own_name)
        within = f"{name}/{utf8}" if name else utf8
        if is_hidden(own_name):
            if is_folder and is_hidden_by_user(own_name) and has_loose_images(path):
                left_out.append({"name": within, "reason": "a hidden folder of images; rename it if it is a class"})
            continue
        if "\n" in own_name or "\r" in own_name:
            raise DataError(f"{folder}/{own_name!r}: a file name with a line break; rename it")
        if utf8 != own_name and (folder / utf8).exists():
            raise DataError(f"{folder}: two entries are called {utf8}, one of them not in UTF-8; rename it")
        if not is_folder:
            if fault := _fault(entry):
                left_out.append({"name": within, "reason": fault})
            else:
                yield path, within
        elif (identity := _identity(path)) in above:
            reason = f"a link to {above[identity] or 'the data set'}, in which it lies; remove it"
            left_out.append({"name": within, "reason": reason})
        else:
            yield from _walk(path, within, {**above, identity: within}, left_out)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """True for a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _fault(entry: os.DirEntry[str]) -> str:
    """Reason why an entry that is no folder is no file that can be read either; empty if it is one."""
    try:
        if entry.is_file():
            return "" if os.access(entry, os.R_OK) else "no permission to read it; change its owner or its mode"
    except OSError:  # a link to itself
        return "a link to nothing; remove it"
    is_dead = entry.is_symlink() and not Path(entry).exists()
    return "a link to nothing; remove it" if is_dead else "a pipe or a device; remove it"


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
    return file.suffix.lower() in table_files.SUFFIXES and table_files.read_table(file, reading).holds_images


def as_named(message: str, files: Path, source: str) -> str:
    """A message with the place of the files as the user named it, instead of that of their copies in `files`."""
    alone = files / Path(source).name
    if alone.is_file():  # with what it needs beside it
        message = message.replace(str(alone), source)
        source = str(Path(source).parent)
    return message.replace(str(files), source)


def bring(file: Path, place: Path, link: bool) -> None:
    """Copy a file to its place, or with `link` make a hard link where the disk allows it."""
    with _length_named(file):
        if place.exists():  # a table may name a file twice
            return None
        place.parent.mkdir(parents=True, exist_ok=True)
        if link:
            with suppress(OSError):  # another file system, a file of another owner, or one that has too many links
                return os.link(file.resolve(), place)
        shutil.copyfile(file, place)
    return None
