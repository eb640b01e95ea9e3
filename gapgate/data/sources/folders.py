"""Class folders, optionally below train, val and test: the name of an image's folder is its label."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from gapgate.data.sources.base import (
    SPLIT_ALIASES,
    FileReader,
    Record,
    Source,
    has_image_suffix,
    is_hidden,
    ordered_classes,
)
from gapgate.errors import DataError


def open_class_folders(root: Path) -> Source:
    """Open a folder of class folders; every file in one (at any depth), unless hidden, is an image of that class.

    Raises:
        DataError: there are no class folders, or images lie outside of them.
    """
    folders = _folders(root)
    # Only if all folders are named like splits: with others beside it, `test` is a class.
    if folders and all(name.lower() in SPLIT_ALIASES for name in folders):
        splits = {name: SPLIT_ALIASES[name.lower()] for name in folders}
    else:
        splits = {"": ""}
    for name in splits:
        _refuse_unlabelled(root / name)
    class_names = ordered_classes({label for name in splits for label in _folders(root / name)})
    if not class_names:
        raise DataError(
            f"{root} is empty or of no known format; "
            "put the images in one folder for each class, or name them in a CSV file with the columns path and label"
        )
    return Source("class folders", class_names, FileReader(root), partial(_records, root, splits, class_names))


def files_below(root: Path, folder: str) -> Iterator[str]:
    """Yield the paths, relative to `root`, of all files below `folder` that are not hidden, sorted in each folder."""
    # Sorted folder by folder, so memory holds the names of one folder only. os.walk descends into what is left in the
    # list `subfolders`, in that order.
    for parent, subfolders, names in os.walk(root / folder):
        subfolders[:] = sorted(name for name in subfolders if not is_hidden(name))
        prefix = os.path.relpath(parent, root)
        for name in sorted(names):
            if not is_hidden(name):
                yield name if prefix == "." else f"{prefix}/{name}"


def _records(root: Path, splits: Mapping[str, str], class_names: tuple[str, ...]) -> Iterator[Record]:
    for folder, split in splits.items():
        for label, class_name in enumerate(class_names):
            for path in files_below(root, f"{folder}/{class_name}" if folder else class_name):
                yield Record(path, label, split, "", path)


def _folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))


def _refuse_unlabelled(folder: Path) -> None:
    """Raise a DataError if images lie beside the class folders."""
    # Only images: a README there is no data.
    loose = sorted(path.name for path in folder.iterdir() if has_image_suffix(path.name) and not is_hidden(path.name))
    if loose:
        raise DataError(
            f"{len(loose):,} images without a label in {folder}, such as {loose[0]}; move each into its class folder"
        )
