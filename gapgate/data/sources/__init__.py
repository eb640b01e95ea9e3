"""Sources of labelled images in the usual formats; the format is recognised from the files, nobody has to name it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from gapgate.data.sources import archives, cifar, folders, idx, numpy_files
from gapgate.data.sources.base import Pixels, Reader, Record, Source
from gapgate.data.sources.builtin import BUILTINS, write_builtin
from gapgate.data.sources.classes import name_classes
from gapgate.data.sources.names import OUT
from gapgate.data.sources.tables import embedded, paths, pixels, rows, table_files
from gapgate.data.sources.tables.table_files import Table, read_table
from gapgate.errors import DataError
from gapgate.hidden import is_hidden
from gapgate.settings.sections import Reading

__all__ = ["BUILTINS", "Pixels", "Reader", "Record", "Source", "open_source", "write_builtin"]

_KNOWN = "a folder of images, a .csv, .tsv, .jsonl, .parquet, .npz or .zip file"
_PACKED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_REMEDIES = {
    **dict.fromkeys(_PACKED, "unpack it and name the folder"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save the sheet as CSV and name that"),
    **dict.fromkeys((".json", ".xml", ".txt", ".yaml", ".yml"), "write a CSV file with the columns path and label"),
    **dict.fromkeys((".feather", ".arrow", ".lmdb", ".tfrecord", ".tfrecords"), "save it as Parquet and name that"),
    **dict.fromkeys((".h5", ".hdf5", ".mat", ".pkl", ".pickle", ".pt"), "save its arrays as .npz and name that"),
    ".npy": "call the arrays images.npy and labels.npy and name their folder",
}
"""Suffix of a file that other programs must change first → how."""


def open_source(path: Path, scratch: Path, reading: Reading = Reading()) -> Source:  # noqa: B008 (frozen)
    """Open a data set: class folders, tables of paths or pixels and labels, images in Parquet, IDX files, CIFAR
    batches, NumPy arrays, or a ZIP archive of one of them.

    A folder that holds just one of these, as a file or a subfolder, stands for it.

    Args:
        path: a folder or a file.
        scratch: an existing empty folder for unpacked files; the source needs it as long as it is in use.
        reading: the user's answers to what the files leave open.

    Raises:
        DataError: the data set is missing, empty, in no known format or inconsistent, leaves a question open, or has
            fewer than two classes.
    """
    try:
        source = _open_folder(path, scratch, reading) if path.is_dir() else _open_file(path, scratch, reading)
    except PermissionError as error:
        raise DataError(f"cannot read {error.filename}: no permission; change its owner or its mode") from None
    source = name_classes(source, reading)
    if len(source.class_names) < 2:
        only = f"one class only ({source.class_names[0]})" if source.class_names else "no classes"
        said = [f"{path} has {only}", *source.notes, "a classifier needs two or more", *_labels_elsewhere(path)]
        raise DataError("; ".join(said))
    return source


def _labels_elsewhere(path: Path) -> Iterator[str]:
    """Name a file in a folder that may have the labels in a form which is not read, and what to do with it."""
    for entry in sorted(path.iterdir() if path.is_dir() else ()):
        is_text = is_hidden(entry.name) or entry.stem.lower() in ("readme", "license", "classes")
        if (remedy := _REMEDIES.get(entry.suffix.lower())) and entry.is_file() and not is_text:
            yield f"if the labels are in {entry.name}, {remedy}"
            return


def _open_file(path: Path, scratch: Path, reading: Reading) -> Source:
    if not path.exists():
        raise DataError(f"{path} does not exist; name {_KNOWN}")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return numpy_files.open_archive(path, scratch, _class_names(path.parent, reading))
    if suffix == ".zip":
        folder = archives.unpack(path, scratch)
        try:
            return _open_folder(folder, scratch, reading)
        except DataError as error:
            # The user knows the archive, not the folder that it was unpacked into.
            raise DataError(str(error).replace(str(folder), str(path))) from None
    if suffix in table_files.SUFFIXES:
        return _open_tables([read_table(path, reading)], path.parent, scratch, reading)
    raise DataError(f"{path} is of no known format; {_REMEDIES.get(suffix, f'name {_KNOWN}')}")


def _open_folder(folder: Path, scratch: Path, reading: Reading) -> Source:
    entries = [entry for entry in sorted(folder.iterdir()) if not is_hidden(entry.name)]
    if not entries:
        raise DataError(f"{folder} is empty; put the images in one folder for each class")
    # The order matters: formats with fixed file names first, class folders last, since any subfolder could be a class.
    if idx.find(folder):
        return idx.open_idx(folder, scratch, _class_names(folder, reading))
    if cifar.is_cifar(folder):
        return cifar.open_cifar(folder, is_named=not reading.class_names)
    if numpy_files.is_numpy_folder(folder):
        return numpy_files.open_numpy_folder(folder, _class_names(folder, reading))
    subfolders = [entry for entry in entries if entry.is_dir()]
    arrays = [entry for entry in entries if entry.suffix.lower() == ".npz"]
    zips = [entry for entry in entries if entry.suffix.lower() == ".zip" and entry.is_file()]
    tables = [read_table(entry, reading) for entry in _tables_in(folder)]
    packed = next((entry for entry in entries if entry.suffix.lower() in _PACKED and entry.is_file()), None)
    of_files = [each for each in tables if each.is_labelled and "path" in each.columns]
    if packed and of_files and not subfolders and not folders.has_loose_images(folder):
        raise DataError(f"the images that {of_files[0].path} names are in {packed.name}; unpack it and name the folder")
    if found := _labelled_tables(folder, tables, subfolders, reading):
        if arrays:
            _refuse_choice(folder, [*arrays, *(each.path for each in found)])
        others = [each for each in tables if each.has_images and each not in found]
        without = [each for each in others if paths.is_of_files(each, folder)]
        return _open_tables(found, folder, scratch, reading, without)
    if arrays:
        return _open_file(arrays[0], scratch, reading) if len(arrays) == 1 else _refuse_choice(folder, arrays)
    # An archive in an archive may hold itself.
    if packed and not subfolders and (packed not in zips or scratch in folder.parents):
        raise DataError(f"{folder} holds the archive {packed.name}; unpack it and name the folder")
    if len(zips) == 1 and not subfolders:
        return _open_file(zips[0], scratch, reading)
    if zips and not subfolders:
        unpacked = [archives.unpack(entry, scratch) for entry in zips]
        return _open_folder(unpacked[0].parent, scratch, reading)
    if len(subfolders) == 1 and _is_nested(subfolders[0], reading):
        return _open_folder(subfolders[0], scratch, reading)
    return _open_class_folders(folder, tables, reading)


def _open_class_folders(folder: Path, tables: list[Table], reading: Reading) -> Source:
    """Open class folders. Where there are none, a table beside the images was meant, whose columns have other names."""
    try:
        source = folders.open_class_folders(folder / folders.innermost(folder, ""), reading)
        if len(source.class_names) > 1 or not tables:
            return source
    except DataError as error:
        if not tables and (elsewhere := next(_labels_elsewhere(folder), "")):
            raise DataError(f"{error}; {elsewhere}") from None
        if not tables or isinstance(reading.splits, dict):
            raise
    # The table of the training images has the labels beside what that of the test images has.
    raise max(tables, key=lambda each: len(each.header)).missing()


def _open_tables(
    tables: list[Table], root: Path, scratch: Path, reading: Reading, unlabelled: Sequence[Table] = ()
) -> Source:
    if all(each.images for each in tables):
        return embedded.open_embedded(tables, root, scratch, is_named=not reading.class_names)
    if all(each.pixels for each in tables):
        return pixels.open_pixels(tables, root, scratch, _class_names(root, reading), unlabelled)
    return paths.open_tables(tables, root, scratch, unlabelled)


def _tables_in(folder: Path) -> list[Path]:
    """The tables in a folder, sorted; Kaggle's sample of a submission has columns like one, and is none."""
    return [
        entry
        for entry in sorted(folder.iterdir())
        if entry.suffix.lower() in table_files.SUFFIXES
        and entry.is_file()
        and not is_hidden(entry.name)
        and "submission" not in entry.stem.lower()
    ]


def _labelled_tables(folder: Path, tables: list[Table], subfolders: list[Path], reading: Reading) -> list[Table]:
    """The tables with paths and labels in a folder, else in each of its subfolders (Hugging Face's `metadata.csv`).

    Raises:
        DataError: there are several, and not one for each split.
    """
    found = [each for each in tables if each.is_labelled and paths.is_of_files(each, folder)]
    if not found and len(subfolders) > 1:
        within = [[read_table(path, reading) for path in _tables_in(sub)] for sub in subfolders]
        found = [each for of_folder in within for each in of_folder if each.is_labelled]
        if any(not any(each.is_labelled for each in of_folder) for of_folder in within):
            found = []
    # Columns of 0 and 1 may be properties of images whose classes are in another table.
    found = [each for each in found if not each.one_hot] or found
    splits = rows.splits_of_files([each.path for each in found], folder)
    found = [each for each in found if splits[each.path] != OUT] or found
    if len(found) > 1 and not all(splits.values()):
        _refuse_choice(folder, [each.path for each in found])
    return found


def _refuse_choice(folder: Path, found: list[Path]) -> Source:
    names = ", ".join(str(path.relative_to(folder)) for path in found)
    raise DataError(f"{folder} holds {len(found)} data sets ({names}); name one of the files")


def _is_nested(folder: Path, reading: Reading) -> bool:
    """True if the only subfolder is the data set itself, as most archives unpack; a folder of images is a class."""
    if idx.find(folder) or cifar.is_cifar(folder) or numpy_files.is_numpy_folder(folder):
        return True
    return any(read_table(path, reading).is_labelled for path in _tables_in(folder)) or (
        not folders.has_loose_images(folder)
        and any(entry.suffix.lower() in (".npz", ".zip") for entry in folder.iterdir())
    )


def _class_names(folder: Path, reading: Reading) -> tuple[str, ...] | None:
    """Names for numbered classes from `classes.txt`, that of label 0 first; `()` without the file, None where the user
    gives them."""
    if reading.class_names:
        return None
    path = folder / "classes.txt"
    if not path.exists():
        return ()
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(set(names)) != len(names):
        raise DataError(f"{path} names a class twice; give each class its own name")
    return names
