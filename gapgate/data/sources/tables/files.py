"""Search for the files that a table names, inside its data set alone."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from gapgate.data.sources.base import has_image_suffix
from gapgate.data.sources.folders import files_below
from gapgate.errors import DataError


class Files:
    """Files below `root`, found by the paths in one table: relative to the table, absolute (of this machine or
    another), or the bare name of a file with or without its extension."""

    def __init__(self, root: Path, table: Path) -> None:
        """Search below `root`, first beside `table`."""
        self._root = root
        self._folder = "" if table.parent == root else table.parent.relative_to(root).as_posix()
        self._own = f"{(root / self._folder).resolve().as_posix()}/"
        self._stripped = ""
        self._names: dict[str, list[str]] | None = None
        self._searched = False

    def find(self, file: str, where: str) -> str | None:
        """Return the path relative to the root; None if there is no such file.

        Raises:
            DataError: the path leaves the data set, or two files have that name; `where` stands in the message.
        """
        # Files outside of the folder are in no version of the data set; a table from elsewhere could name any file.
        # A table may come from Windows: C: at its front goes, and backslashes become slashes.
        path = posixpath.normpath(re.sub(r"^[A-Za-z]:(?=[\\/])", "", file).replace("\\", "/"))
        if path.startswith("../") or path == "..":
            raise _outside(file, where)
        if path.startswith("/"):
            found = self._below(path)
            if found is None and not self._is_inside(path):
                raise _outside(file, where)
            return found
        beside = posixpath.join(self._folder, path)
        return beside if self._is_file(beside) else self._by_name(path, where)

    def notes(self) -> Iterator[str]:
        """Say what was done to find the files."""
        if self._stripped:
            yield f"the paths begin with {self._stripped}, which is taken for the data set's folder"
        if self._searched:
            yield "the files were found by their names"

    def _below(self, path: str) -> str | None:
        """The part of an absolute path behind the folder of the data set, which may have had another place."""
        if path.startswith(self._own):
            inside = posixpath.join(self._folder, path.removeprefix(self._own))
            return inside if self._is_file(inside) else None
        if self._stripped:
            inside = path.removeprefix(self._stripped)
            return inside if inside != path and self._is_file(inside) else None
        parts = PurePosixPath(path).parts
        # The path is of another machine: drop its folders from the left until the rest is a file here. What was dropped
        # is remembered, so that all rows are read alike and only the first one searches.
        for start in range(1, len(parts)):
            inside = "/".join(parts[start:])
            if self._is_file(inside):
                self._stripped = path.removesuffix(inside)
                return inside
        return None

    def _is_inside(self, path: str) -> bool:
        """True for an absolute path below the table's folder, or below the folder that was found to stand for it."""
        return path.startswith(self._own) or bool(self._stripped and path.startswith(self._stripped))

    def _by_name(self, path: str, where: str) -> str | None:
        """The only file of that name, or of that name with an extension; a folder in `path` must be its folder. Case
        and the form of accents count only where they tell two files apart."""
        if self._names is None:
            self._names = {}
            for known in files_below(self._root, ""):
                if has_image_suffix(known):
                    name = posixpath.basename(known)
                    # By its name, and by its name without the extension, where that is another.
                    for key in dict.fromkeys((_plain(name), _plain(PurePosixPath(name).stem))):
                        self._names.setdefault(key, []).append(known)
        candidates = self._names.get(_plain(posixpath.basename(path)), [])
        found = [known for known in candidates if _ends_with(known, path)]
        found = found or [known for known in candidates if _ends_with(_plain(known), _plain(path))]
        if len(found) > 1:
            raise DataError(f"{where}: {path} may be {found[0]} or {found[1]}; write the folder and the extension too")
        self._searched = self._searched or bool(found)
        return found[0] if found else None

    def _is_file(self, path: str) -> bool:
        try:
            return (self._root / path).is_file()
        except (OSError, ValueError):  # too long for a name, or with a NUL
            return False


def _ends_with(known: str, path: str) -> bool:
    """True if a file's path, or the same without its extension, ends with `path`."""
    return any(f"/{each}".endswith(f"/{path}") for each in (known, str(PurePosixPath(known).with_suffix(""))))


def _plain(path: str) -> str:
    """A path as Windows and macOS compare it: without case, and accents in one form."""
    return unicodedata.normalize("NFC", path).casefold()


def _outside(file: str, where: str) -> DataError:
    return DataError(f"{where}: {file} lies outside the table's folder; write paths relative to the table")
