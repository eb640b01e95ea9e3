"""NumPy arrays: one `.npz` archive, or a folder of `.npy` files with the same names.

    images, labels [, groups, splits]                           one set
    x_train, y_train [, x_val, y_val] [, x_test, y_test]        as Keras names its data sets
    train_images, train_labels [, val_…] [, test_…]             as MedMNIST does

Images are (N, H, W) or (N, H, W, C) uint8 with C = 1, 2 (gray and alpha), 3 or 4 (RGB and alpha); labels are whole
numbers or strings.
"""

from __future__ import annotations

import math
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapgate.data.sources import archives
from gapgate.data.sources.arrays import Block, Part, array_source
from gapgate.data.sources.base import Source
from gapgate.errors import DataError

_SPLITS = ("train", "val", "test")


def is_numpy_folder(folder: Path) -> bool:
    """True if the folder holds `.npy` files with the names above."""
    return bool(list(_layout({path.stem: path for path in folder.glob("*.npy")})))


def open_numpy_folder(folder: Path, class_names: tuple[str, ...] | None) -> Source:
    """Open the `.npy` files of a folder, memory-mapped in place.

    Raises:
        DataError: an array has another type or shape, or the numbers of images and labels differ.
    """
    return _open({path.stem: path for path in sorted(folder.glob("*.npy"))}, folder, class_names)


def open_archive(path: Path, scratch: Path, class_names: tuple[str, ...] | None) -> Source:
    """Open a `.npz` archive; its members are unpacked into `scratch` as streams, and nothing is unpickled.

    Raises:
        DataError: the file is truncated or no archive, or one of the errors of `open_numpy_folder`.
    """
    with archives.opened(path, scratch, "truncated or corrupt; get it again") as archive:
        members = {Path(name).stem: name for name in archive.namelist() if name.endswith(".npy")}
        wanted = {name for _, *names in _layout(members) for name in names if name in members}
        return _open({name: _unpack(archive, members[name], scratch) for name in sorted(wanted)}, path, class_names)


def _unpack(archive: zipfile.ZipFile, member: str, scratch: Path) -> Path:
    target = scratch / Path(member).name  # the name alone: a member called ../x would leave the folder
    with archive.open(member) as packed, target.open("wb") as out:
        shutil.copyfileobj(packed, out, 1 << 20)
    return target


def _layout(names: Mapping[str, object]) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield (split, images, labels, groups, splits), the names of the arrays, for each set that is present."""
    if "images" in names:
        yield "", "images", "labels", "groups", "splits"
        return
    for split in _SPLITS:
        for images, labels in ((f"x_{split}", f"y_{split}"), (f"{split}_images", f"{split}_labels")):
            if images in names:
                yield split, images, labels, f"groups_{split}", f"splits_{split}"


def _open(files: Mapping[str, Path], where: Path, class_names: tuple[str, ...] | None) -> Source:
    parts = []
    for split, images, labels, groups, splits in _layout(files):
        if labels not in files:
            raise DataError(f"{where} has {images} and no {labels}; add one label for each image")
        columns = {name: _column(files[name], f"{where}: {name}") for name in (labels, groups, splits) if name in files}
        block = _block(files[images], f"{where}: {images}")
        part = Part(split or "images", split, block, columns[labels], columns.get(groups), columns.get(splits))
        parts.append(part)
    if not parts:
        found = ", ".join(sorted(files)) or "nothing"
        raise DataError(
            f"{where} holds {found}; name the arrays images and labels, or x_train, y_train, x_test, y_test"
        )
    try:
        return array_source("NumPy", parts, class_names)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _map(path: Path, name: str) -> NDArray[Any]:
    try:
        # An array of objects is a pickle, which could run any code.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError):
        raise DataError(f"{name} is no NumPy array of a plain type, or it is truncated; save it again") from None
    assert isinstance(array, np.ndarray)
    return array


def _column(path: Path, name: str) -> NDArray[Any]:
    """Map a column, (N,), from an array of (N,) or (N, 1), as some data sets store labels."""
    values = _map(path, name)
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def _block(path: Path, name: str) -> Block:
    images = _map(path, name)
    shape = images.shape[1:]
    if images.dtype != np.uint8:
        raise DataError(f"{name} has the type {images.dtype}; store pixels as uint8 from 0 to 255")
    if len(shape) not in (2, 3) or 0 in images.shape or (len(shape) == 3 and shape[2] > 4):
        raise DataError(
            f"{name} has the shape {images.shape}; store it as (N, H, W) or (N, H, W, C) with C from 1 to 4"
        )
    # Records are read at offset + image · stride, which holds for C order only.
    if not images.flags.c_contiguous:
        raise DataError(f"{name} is in Fortran order; store it by numpy.ascontiguousarray")
    assert isinstance(images, np.memmap)
    return Block(path, images.offset, len(images), math.prod(shape), shape)
