"""Preprocessing: makes the files of a Splits artifact (listed in `gapgate.data.splits`) from labelled images."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from gapgate.data.decoding import Decoder, decode_all, prepare_workers
from gapgate.data.depth import dark_colours, highest_of, white_of
from gapgate.data.image_table import Index
from gapgate.data.leaks.bonds import bind
from gapgate.data.partition import partition
from gapgate.data.probe import PROBED_IMAGES, resolve
from gapgate.data.sources import Reader, Source, open_source
from gapgate.data.sources.base import EncodedReader
from gapgate.data.splits import SPLIT_NAMES, Splits
from gapgate.data.splits_files import write_splits
from gapgate.data.transform import Transform
from gapgate.errors import DataError, StorageError
from gapgate.process.cpu_quota import available_cpus
from gapgate.settings.sections import PreprocessSettings, Reading
from gapgate.tracking import NullTracker, Tracker

_DRAWN = (
    "the images are dark drawings on a transparent background, so they are put on white (preprocess.fill=255), in the "
    "service too"
)


def preprocess(
    settings: PreprocessSettings,
    source_dir: Path,
    out_dir: Path,
    tracker: Tracker = NullTracker(),  # noqa: B008 (it holds no state)
    reading: Reading = Reading(),  # noqa: B008 (frozen)
    left_out: Sequence[Mapping[str, str]] = (),
) -> Splits:
    """Decode, hash, resize and split a data set; `out_dir` exists and is empty.

    Images stream through worker processes into `images.npy`. All other data that grows with their number is in a
    temporary file, so memory does not grow. The same source and settings give the same bytes.

    Args:
        reading: the user's answers to what the files of the source leave open.
        left_out: name and reason of each file that ingest could not take; they count as images that cannot be used.

    Raises:
        DataError: the source cannot be used, more than `max_rejects` images cannot be used, a class has fewer images
            than `min_class_images` in a split, or fewer than two classes have training images.
        StorageError: too little disk space for `images.npy`.
    """
    # Inside `out_dir`, which has room for the data set; the system's temporary folder is often small, or memory.
    with TemporaryDirectory(prefix=".scratch-", dir=out_dir) as folder:
        unpacked = Path(folder, "unpacked")
        unpacked.mkdir()
        source = open_source(source_dir, unpacked, reading)
        with closing(Index(Path(folder, "index.sqlite"))) as index:
            num_images = index.fill(source.records())
            if not num_images:
                raise DataError(f"{source_dir} holds no images; put them in one folder for each class")
            num_workers = settings.num_workers or available_cpus()
            # Here, so that the fork server imports its modules while this process probes images.
            prepare_workers(num_images, num_workers)
            probed = _probed(index)
            source = _with_white(source, probed, settings.max_pixels)
            transform, network = resolve(settings, source.reader, probed, num_images)
            if settings.fill == "auto" and transform.fill:
                source = replace(source, notes=(*source.notes, _DRAWN))
            _decode(source.reader, transform, index, num_images, out_dir / "images.npy", num_workers, tracker)
            _refuse_rejects(index, settings.max_rejects, left_out)
            bonds = bind(index, source.reader, out_dir / "images.npy", settings.groups)
            how = partition(index, settings)
            class_counts = _class_counts(index, source.class_names, settings.min_class_images)
            _refuse_untrainable(index, class_counts, left_out)
            write_splits(out_dir, index, source, transform, network, how, bonds, class_counts, left_out)
    return Splits.open(out_dir)


def _probed(index: Index) -> list[str]:
    """Locators of `PROBED_IMAGES` images from all places, in mixed order: the first rows are all of the first class."""
    # Knuth's multiplicative hash (The Art of Computer Programming, volume 3, section 6.4).
    # SQLite's whole numbers have 64 bits, so the product is right up to 3.4 · 10⁹ rows.
    query = "SELECT locator FROM images ORDER BY row * 2654435761 % 4294967296 LIMIT ?"
    return [locator for (locator,) in index.lines(query, PROBED_IMAGES)]


def _with_white(source: Source, locators: Sequence[str], max_pixels: int) -> Source:
    """The source with the value of white that its files of 16 bits have, by those that are probed."""
    if not isinstance(source.reader, EncodedReader):
        return source
    reader = source.reader
    files = [partial(reader.encoded, locator) for locator in locators]
    white, note = white_of(highest_of(file, max_pixels) for file in files)
    dark = dark_colours(files, max_pixels)
    return replace(source, reader=replace(reader, white=white), notes=(*source.notes, *filter(None, [note, dark])))


def _decode(
    reader: Reader,
    transform: Transform,
    index: Index,
    num_images: int,
    path: Path,
    num_workers: int,
    tracker: Tracker,
) -> None:
    shape = (num_images, transform.size_px, transform.size_px, transform.channels)
    decoder = Decoder(reader, transform, path, _create_array(path, np.dtype(np.uint8), shape))
    done = 0
    for decoded in decode_all(decoder, index.jobs(), num_images, num_workers):
        index.store(decoded)
        done += len(decoded)
        tracker.progress(done, num_images, "images")


def _create_array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Create a `.npy` file of zeros that takes no disk space yet; return the offset of its values in bytes."""
    num_bytes = math.prod(shape) * dtype.itemsize
    if (free := shutil.disk_usage(path.parent).free) < num_bytes:
        raise StorageError(
            f"{path.name} needs {num_bytes / 1e9:.1f} GB and {path.parent} has {free / 1e9:.1f} GB free; "
            "free space or lower preprocess.size_px"
        )
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        offset = file.tell()
        # Extending a file by truncate leaves a hole that reads as zeros (truncate(2)); workers fill in their rows, in
        # any order, and the rows of unusable images stay zero.
        file.truncate(offset + num_bytes)
    return offset


def _refuse_rejects(index: Index, max_rejects: int, left_out: Sequence[Mapping[str, str]]) -> None:
    rejects = index.one("SELECT COUNT(*) FROM images WHERE split = 'quarantined'") + len(left_out)
    if rejects > max_rejects:
        raise DataError(
            f"{rejects:,} images cannot be used, preprocess.max_rejects={max_rejects}: {_rejected(index, left_out)}; "
            "mend or remove them, or raise preprocess.max_rejects"
        )


def _rejected(index: Index, left_out: Sequence[Mapping[str, str]]) -> str:
    """The first images that cannot be used, with their reasons."""
    first = [(each["name"], each["reason"]) for each in left_out]
    first += index.lines("SELECT id, reason FROM images WHERE split = 'quarantined' ORDER BY row LIMIT 3")
    return ", ".join(f"{name} ({reason})" for name, reason in first[:3])


def _refuse_untrainable(
    index: Index, class_counts: Mapping[str, list[int]], left_out: Sequence[Mapping[str, str]]
) -> None:
    trained = sum(count > 0 for count in class_counts["train"])
    if trained < 2:
        left = "images of one class alone are" if trained else "no image is"
        rejected = _rejected(index, left_out)
        query = "SELECT id || ' (' || reason || ')' FROM images WHERE split = 'duplicate' ORDER BY row LIMIT 1"
        dropped = index.one("SELECT COUNT(*) FROM images WHERE split = 'duplicate'")
        elsewhere = [f"{sum(class_counts[name]):,} in {name}" for name in ("val", "test") if any(class_counts[name])]
        held = f" ({', '.join(elsewhere)})" if elsewhere else ""
        raise DataError(
            f"{left} left to train on{held}, and a classifier needs two "
            f"classes; add images{' to train' if elsewhere else ''}"
            f"{rejected and f', and mend those that cannot be used: {rejected}'}"
            f"{f'; {dropped:,} were set aside as copies, first {index.one(query)}' if dropped else ''}"
        )


def _class_counts(index: Index, class_names: tuple[str, ...], min_class_images: int) -> dict[str, list[int]]:
    """Count the images of each class in each split.

    Raises:
        DataError: a class has fewer than `min_class_images` in a split.
    """
    counts: dict[str, list[int]] = {split: [0] * len(class_names) for split in SPLIT_NAMES}
    for split, label, count in index.lines("SELECT split, label, COUNT(*) FROM images GROUP BY split, label"):
        if split in counts:
            counts[split][label] = count
    for split, of_class in counts.items():
        for name, count in zip(class_names, of_class, strict=True):
            if count < min_class_images:
                raise DataError(
                    f"class {name!r} has {count} images in {split}, preprocess.min_class_images={min_class_images}; "
                    "add images of it, or lower preprocess.min_class_images"
                )
    return counts
