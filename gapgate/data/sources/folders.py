"""Class folders, optionally below train, val and test: the name of an image's folder is its label."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from gapgate.data.sources.base import FileReader, Record, Source, has_image_suffix, may_be_image, ordered_classes
from gapgate.data.sources.names import OUT, splits_of
from gapgate.errors import DataError
from gapgate.hidden import is_hidden
from gapgate.settings.sections import Reading


@dataclass(slots=True)
class _Layout:
    """Folders of a source by their part in it; all are relative to its root."""

    splits: dict[str, str] = field(default_factory=dict)
    """Folder with class folders in it → train, val, test or empty."""
    unlabelled: list[str] = field(default_factory=list)
    """Folders of a split whose images have no class folders."""
    others: list[str] = field(default_factory=list)
    """Folders that are neither, beside splits."""
    named: dict[str, str] = field(default_factory=dict)
    """Folder whose name stands for a split → that split, or `OUT`."""


def open_class_folders(root: Path, reading: Reading) -> Source:
    """Open a folder of class folders; every file in one (at any depth), unless hidden, is an image of that class.

    Raises:
        DataError: there are no class folders, images lie outside of them, or it is open which folders are splits.
    """
    layout = _layout(root, reading)
    splits, notes = _answered(root, layout)
    notes += _texts_notes(root, splits)
    for name in splits:
        _refuse_unlabelled(root / name)
    folders = {name: _class_folders(root / name) for name in splits}
    notes += _leave_unlabelled_split(root, splits, folders)
    class_names = ordered_classes({label for name in splits for label in folders[name]})
    if not class_names:
        raise DataError(
            f"{root} is empty or of no known format; "
            "put the images in one folder for each class, or name them in a CSV file with the columns path and label"
        )
    records = partial(_records, root, splits, folders, class_names)
    return Source("class folders", class_names, FileReader(root), records, tuple(notes))


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


def has_loose_images(folder: Path) -> bool:
    """True if images lie in the folder itself."""
    return any(has_image_suffix(path.name) and not is_hidden(path.name) for path in folder.iterdir())


def subfolders_of(folder: Path) -> list[str]:
    """Names of the folders in a folder that are not hidden and do not hold texts or tables alone, sorted."""
    return sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name) and not _holds_texts(path)
    )


def _holds_texts(folder: Path) -> bool:
    """True if a folder has files, none of which may be an image: documents, or boxes for detection."""
    found, waiting = False, [str(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                # A link to a folder above would be walked for ever.
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif may_be_image(entry.name):
                    return False
                else:
                    found = True
    return found


def innermost(root: Path, folder: str) -> str:
    """Go down from `folder` (relative to `root`) while it holds one folder of folders alone, as archives unpack."""
    while True:
        path = root / folder
        within = subfolders_of(path)
        if len(within) != 1 or has_loose_images(path):
            return folder
        inner = path / within[0]
        if has_loose_images(inner) or not subfolders_of(inner):
            return folder
        folder = f"{folder}/{within[0]}" if folder else within[0]


def _layout(root: Path, reading: Reading) -> _Layout:
    folders = subfolders_of(root)
    if reading.splits == "none":
        return _Layout({"": ""})
    given: Mapping[str, str] = reading.splits if isinstance(reading.splits, dict) else {}
    if absent := sorted(set(given) - set(folders)):
        raise DataError(f"data.splits names {absent[0]}, which is no folder in {root}; it has {', '.join(folders)}")
    # `data.splits` overrules what a folder's name says.
    named = splits_of([name for name in folders if name not in given]) | dict(given)
    layout = _Layout(named=named)
    for name in folders:
        split, inner = named.get(name, ""), innermost(root, name)
        if split in ("", OUT):
            (layout.unlabelled if split else layout.others).append(name)
        elif subfolders_of(root / inner):
            layout.splits[inner] = split
        else:
            layout.unlabelled.append(name)
    # A class may be called train (of a railway) or test: a split holds folders, a class holds images. Where every
    # folder has the name of a split, they are splits, and the images in them lack a label.
    if not layout.splits and (layout.others or not layout.unlabelled):
        _refuse_two_levels(root, folders)
        return _Layout({"": ""})
    return layout


def _refuse_two_levels(root: Path, folders: list[str]) -> None:
    """Ask which level is the classes if all folders hold the same folders, such as the folds of a cross-validation."""
    within = [subfolders_of(root / name) for name in folders]
    if len(folders) < 2 or len(within[0]) < 2 or any(names != within[0] for names in within):
        return
    if any(has_loose_images(root / name) for name in folders):
        return
    outer, inner = (", ".join(names[:3]) + (", …" if len(names) > 3 else "") for names in (folders, within[0]))
    answer = ", ".join([f"{folders[0]}: train", f"{folders[1]}: test", *(["…"] if len(folders) > 2 else [])])
    raise DataError(
        f"each of the folders {outer} in {root} holds {inner}: which are the classes? If {outer}, answer with "
        f"--set data.splits=none; if {inner}, give each folder its split: --set 'data.splits={{{answer}}}'"
    )


def _answered(root: Path, layout: _Layout) -> tuple[dict[str, str], list[str]]:
    """The folders to read with the split of each, and notes on those that are left out.

    Raises:
        DataError: it is open what a folder beside the splits is, or the training images have no labels.
    """
    notes: list[str] = []
    if "" in layout.splits:
        return layout.splits, notes
    splits = ", ".join(layout.splits)
    for name in layout.others:
        if next(_images_below(root, name), None):
            raise DataError(
                f"{root} holds {splits} and {name}: are they splits, or classes? Move {name} out, or answer with "
                f"--set 'data.splits={{{name}: out}}' (or train, val, test), or --set data.splits=none for classes"
            )
        notes.append(f"{name}/ holds no images and is left out")
    for name in layout.unlabelled:
        if not layout.splits or layout.named[name] == "train":
            _refuse_unlabelled(root / name)
        count = sum(1 for _ in _images_below(root, name))
        notes.append(f"{name}/ holds {count:,} images without class folders and is left out")
    if any(name.lower() != split for name, split in layout.splits.items()):
        notes.append(", ".join(f"{name}/ is {split}" for name, split in layout.splits.items()))
    # One split alone, such as a download of the training images, is divided like any other data set.
    if len(layout.splits) == 1:
        return dict.fromkeys(layout.splits, ""), notes
    if layout.splits and "train" not in layout.splits.values():
        raise DataError(f"{root} holds {splits} and no training split; name it train, or one of them in data.splits")
    return layout.splits, notes


def _texts_notes(root: Path, splits: Iterable[str]) -> Iterator[str]:
    """Say which folders beside the classes, or the splits, are no classes."""
    for place in sorted({"", *splits}):
        for path in sorted((root / place).iterdir()):
            if path.is_dir() and not is_hidden(path.name) and _holds_texts(path):
                yield f"{path.relative_to(root).as_posix()}/ holds no images and is left out"


def _images_below(root: Path, folder: str) -> Iterator[str]:
    return (path for path in files_below(root, folder) if has_image_suffix(path))


def _leave_unlabelled_split(
    root: Path, splits: dict[str, str], folders: dict[str, dict[str, list[str]]]
) -> Iterator[str]:
    """Take out a split whose only folder is no class of train, such as `test/unknown`; yield a note on it."""
    known = {label for name, split in splits.items() if split == "train" for label in folders[name]}
    for name, split in list(splits.items()):
        found = folders[name]
        if split in ("val", "test") and len(found) == 1 and known and not set(found) & known:
            (label,) = found
            count = sum(1 for _ in _images_below(root, name))
            yield f"{name}/ holds {count:,} images in {label}, which is no class of train, and is left out"
            del splits[name], folders[name]


def _class_folders(folder: Path) -> dict[str, list[str]]:
    """Class name → folders of it: Unicode can write an accented name in two ways, which look the same (NFC, NFD)."""
    found: dict[str, list[str]] = {}
    for name in subfolders_of(folder):
        found.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    return found


def _records(
    root: Path,
    splits: Mapping[str, str],
    folders: Mapping[str, Mapping[str, list[str]]],
    class_names: tuple[str, ...],
) -> Iterator[Record]:
    for folder, split in splits.items():
        for label, class_name in enumerate(class_names):
            for name in folders[folder].get(class_name, ()):
                for path in files_below(root, f"{folder}/{name}" if folder else name):
                    yield Record(path, label, split, "", path)


def _refuse_unlabelled(folder: Path) -> None:
    """Raise a DataError if images lie beside the class folders."""
    # Only images: a README there is no data.
    loose = sorted(path.name for path in folder.iterdir() if has_image_suffix(path.name) and not is_hidden(path.name))
    if loose:
        raise DataError(
            f"{len(loose):,} images without a label in {folder}, such as {loose[0]}; move each into its class folder"
        )
