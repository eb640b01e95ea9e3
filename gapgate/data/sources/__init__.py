"""Sources of labelled images in the usual formats; the format is recognised from the files, nobody has to name it."""

from __future__ import annotations

from pathlib import Path

from gapgate.data.sources import cifar, folders, idx, numpy_files, table
from gapgate.data.sources.base import Pixels, Reader, Record, Source, is_hidden
from gapgate.data.sources.builtin import BUILTINS, write_builtin
from gapgate.errors import DataError

__all__ = ["BUILTINS", "Pixels", "Reader", "Record", "Source", "is_hidden", "open_source", "write_builtin"]


def open_source(path: Path, scratch: Path) -> Source:
    """Open a data set: class folders, a table of paths and labels, IDX files, CIFAR batches, or NumPy arrays.

    A folder that holds just one of these, as a file or a subfolder, stands for it.

    Args:
        path: a folder, or one `.csv`, `.parquet` or `.npz` file.
        scratch: an existing empty folder for unpacked arrays; the reader needs it as long as it is in use.

    Raises:
        DataError: the data set is missing, empty, in no known format or inconsistent, or has fewer than two classes.
    """
    try:
        source = _open_folder(path, scratch) if path.is_dir() else _open_file(path, scratch)
    except PermissionError as error:
        raise DataError(f"cannot read {error.filename}: no permission; change its owner or its mode") from None
    if len(source.class_names) < 2:
        only = f"one class only ({source.class_names[0]})" if source.class_names else "no classes"
        raise DataError(f"{path} has {only}; a classifier needs two or more")
    return source


def _open_file(path: Path, scratch: Path) -> Source:
    if not path.exists():
        raise DataError(f"{path} does not exist; name a folder of images, a .csv, .parquet or .npz file")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return numpy_files.open_archive(path, scratch, _class_names(path.parent))
    if suffix in table.SUFFIXES:
        return table.open_table(path, scratch)
    raise DataError(f"{path} is of no known format; name a folder of images, a .csv, .parquet or .npz file")


def _open_folder(folder: Path, scratch: Path) -> Source:
    entries = [entry for entry in sorted(folder.iterdir()) if not is_hidden(entry.name)]
    if not entries:
        raise DataError(f"{folder} is empty; put the images in one folder for each class")
    # The order matters: formats with fixed file names first, class folders last, since any subfolder could be a class.
    if idx.find(folder):
        return idx.open_idx(folder, scratch, _class_names(folder))
    if cifar.is_cifar(folder):
        return cifar.open_cifar(folder)
    if numpy_files.is_numpy_folder(folder):
        return numpy_files.open_numpy_folder(folder, _class_names(folder))
    archives = [entry for entry in entries if entry.suffix.lower() == ".npz"]
    tables = [entry for entry in entries if entry.suffix.lower() in table.SUFFIXES]
    labelled = [entry for entry in tables if table.has_columns(entry)]
    if (found := archives + labelled) and len(found) > 1:
        names = ", ".join(entry.name for entry in found)
        raise DataError(f"{folder} holds {len(found)} data sets ({names}); name one of the files")
    # A table without path and label columns beside subfolders is not the data set's: many data sets carry such lists.
    subfolders = [entry for entry in entries if entry.is_dir()]
    if found or (tables and not subfolders):
        return _open_file((found or tables)[0], scratch)
    if len(subfolders) == 1 and _is_nested(subfolders[0]):
        return _open_folder(subfolders[0], scratch)
    return folders.open_class_folders(folder)


def _is_nested(folder: Path) -> bool:
    """True if the only subfolder is the data set itself, as most archives unpack; a folder of images is a class."""
    return bool(idx.find(folder)) or cifar.is_cifar(folder) or numpy_files.is_numpy_folder(folder)


def _class_names(folder: Path) -> tuple[str, ...]:
    """Read the class names from `classes.txt`, the name of label 0 first; `()` without the file."""
    path = folder / "classes.txt"
    if not path.exists():
        return ()
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(set(names)) != len(names):
        raise DataError(f"{path} names a class twice; give each class its own name")
    return names
