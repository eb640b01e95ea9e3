"""Files of a Splits artifact, except `images.npy`, written from the table of images that *preprocess* has filled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gapgate.artifacts import write_json
from gapgate.data.contact_sheet import ClassSample, contact_sheet
from gapgate.data.formats import FORMATS, MAX_PIXELS
from gapgate.data.image_table import Index
from gapgate.data.leaks.alike import write_alike
from gapgate.data.leaks.bonds import MAX_COMPARED, Bonds
from gapgate.data.partition import Partition
from gapgate.data.set_aside import write_set_aside
from gapgate.data.sources import Source
from gapgate.data.splits import SPLIT_NAMES
from gapgate.data.tiles import save_sheets
from gapgate.data.transform import Transform

LISTED_IMAGES = 1000
"""Largest number of left-out images that `splits.json` names; `index.parquet` has all of them."""


SHEET_GROUPS = 6
"""Number of groups on the contact sheet, the largest."""


SHEET_IMAGES = 10
"""Number of images of each class on the contact sheet."""


_GROUPS = "SELECT bond, COUNT(*) AS n FROM images WHERE bond IS NOT NULL GROUP BY bond HAVING n > 1"


_INDEX_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("label", pa.int32()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("content_hash", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("reason", pa.string()),
    ]
)


def write_splits(
    out_dir: Path,
    index: Index,
    source: Source,
    transform: Transform,
    network: str,
    how: Partition,
    bonds: Bonds,
    class_counts: dict[str, list[int]],
    left_out: Sequence[Mapping[str, str]],
) -> None:
    """Write all files except `images.npy`."""
    # Those of train, which are known only now, complete the transform that decoded the images.
    mean, std = _mean_and_std(index, transform)
    transform = transform.model_copy(update={"mean": mean, "std": std})
    transform.write(out_dir / "transform.json")
    counts = dict(index.lines("SELECT split, COUNT(*) FROM images GROUP BY split ORDER BY split"))
    num_rows = sum(counts.values())
    _write_column(out_dir / "labels.npy", np.dtype("<i4"), num_rows, index, "SELECT label FROM images ORDER BY row")
    if how.num_folds:
        query = "SELECT IFNULL(fold, -1) FROM images ORDER BY row"
        _write_column(out_dir / "folds.npy", np.dtype("<i1"), num_rows, index, query)
    for split in SPLIT_NAMES:
        query = "SELECT row FROM images WHERE split = ? ORDER BY row"
        _write_column(out_dir / f"{split}.npy", np.dtype("<i8"), counts.get(split, 0), index, query, split)
    _write_index(out_dir / "index.parquet", index)
    info = {
        "source_format": source.format,
        "network": network,
        "class_names": source.class_names,
        "image_shape": (transform.size_px, transform.size_px, transform.channels),
        "num_images": num_rows,
        "counts": {split: counts.get(split, 0) for split in (*SPLIT_NAMES, "duplicate", "quarantined")},
        "class_counts": class_counts,
        "mean": mean,
        "std": std,
        "given_splits": how.given_splits,
        "num_folds": how.num_folds,
        "duplicates": {
            "within_split": how.within_split,
            "across_splits": how.across_splits,
            "near_across_splits": how.near_across_splits,
            "label_conflicts": how.label_conflicts,
            "images": _listed(index, "duplicate"),
        },
        "groups": asdict(bonds) | {"num_groups": index.one(f"SELECT COUNT(*) FROM ({_GROUPS})")},
        "leaks": asdict(how.leaks) | {"share": how.leaks.share},
        "quarantined": _listed(index, "quarantined"),
        "set_aside": write_set_aside(out_dir, index, source.class_names, left_out),
        "near_duplicates": write_alike(out_dir, index, source.class_names),
        "notes": [
            *source.notes,
            *_not_everywhere(source.class_names, how.given_splits, class_counts),
            *_not_served(index),
            *_invisible(index, transform),
            *_not_compared(bonds, counts),
        ],
    }
    write_json(out_dir / "splits.json", info)
    _write_sheet(out_dir, index, source.class_names, class_counts)


def _not_everywhere(
    class_names: Sequence[str], given_splits: Sequence[str], class_counts: Mapping[str, Sequence[int]]
) -> Iterator[str]:
    """Say which classes are missing in a split of the source, or in what it leaves to train on."""
    means = {"train": "the model never learns", "val": "the choice of the epoch leaves out", "test": "nothing measures"}
    for split in ("train", *given_splits) if given_splits else ():
        missing = [name for name, count in zip(class_names, class_counts[split], strict=True) if not count]
        if missing and split in means:
            names = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
            word = "classes" if len(missing) > 1 else "class"
            yield f"{split} has no images of {len(missing):,} {word}, which {means.pop(split)}: {names}"


def _not_served(index: Index) -> Iterator[str]:
    """Say so if images are larger than the server takes, or in formats that it does not take."""
    query = "SELECT COUNT(*) FROM images WHERE width * height > ? AND split IN ('train', 'val', 'test')"
    if count := index.one(query, MAX_PIXELS):
        yield (
            f"{count:,} images have more than {MAX_PIXELS:,} pixels, which `gapgate serve` refuses unless "
            "GAPGATE_MAX_PIXELS is raised; `gapgate predict` takes them"
        )
    query = "SELECT COUNT(*) FROM images WHERE form = ? AND split IN ('train', 'val', 'test')"
    for form in FORMATS:
        if not form.is_served and (count := index.one(query, form.pillow)):
            yield (
                f"{count:,} images are {form.name} files, which `gapgate serve` refuses unless "
                f"GAPGATE_FORMATS=+{form.option} is set; `gapgate predict` takes them"
            )


def _invisible(index: Index, transform: Transform) -> Iterator[str]:
    """Say so if images are one plain colour after the transform, as black on transparent is on black."""
    # n Σx² = (Σx)² for the values x of a channel holds only if they are all the same.
    num_values = transform.size_px**2
    plain = " AND ".join(f"{num_values} * square{c} = sum{c} * sum{c}" for c in range(transform.channels))
    where = f"FROM images WHERE {plain} AND split IN ('train', 'val', 'test')"
    if count := index.one(f"SELECT COUNT(*) {where}"):
        first = index.one(f"SELECT id {where} ORDER BY row LIMIT 1")
        yield (
            f"{count:,} images, such as {first}, are one plain colour after the transform; if they are drawn in "
            f"{'black' if transform.fill < 128 else 'white'} on a transparent background, set preprocess.fill="
            f"{255 if transform.fill < 128 else 0}"
        )


def _not_compared(bonds: Bonds, counts: Mapping[str, int]) -> list[str]:
    if bonds.near_pairs is not None or sum(counts.values()) <= MAX_COMPARED:
        return []
    return [f"more than {MAX_COMPARED:,} images: near-duplicates were not looked for, exact copies were"]


def _mean_and_std(index: Index, transform: Transform) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute mean and standard deviation of the training pixels in 0..1, (C,) each; a constant channel gets std 1."""
    channels = range(transform.channels)
    columns = ", ".join(f"SUM(sum{c}), SUM(square{c})" for c in channels)
    query = f"SELECT COUNT(*), {columns} FROM images WHERE split = 'train'"
    (count, *sums) = next(index.lines(query))
    n = count * transform.size_px**2
    means = [sums[2 * c] / n for c in channels]
    # n Σx² − (Σx)² in whole numbers, which Python does not round: in floats, the difference of two nearly equal numbers
    # would lose its digits.
    stds = [math.sqrt(n * sums[2 * c + 1] - sums[2 * c] ** 2) / n for c in channels]
    return tuple(round(mean / 255, 6) for mean in means), tuple(round(std / 255, 6) or 1.0 for std in stds)


def _write_column(path: Path, dtype: np.dtype[Any], length: int, index: Index, query: str, *values: object) -> None:
    """Write the first column of a query as a `.npy` file, in batches."""
    # `np.save` needs the whole array in memory, so its header is written here and the values follow batch by batch.
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(file, header)
        for lines in index.batches(query, *values):
            file.write(np.array([line[0] for line in lines], dtype).tobytes())


def _write_index(path: Path, index: Index) -> None:
    query = (
        # A bond of one of the source's own groups is `group NAME` (`bonds.bind`): the name begins at character 7.
        "SELECT row, id, label, split, CASE WHEN bond LIKE 'group %' THEN substr(bond, 7) ELSE IFNULL(bond, grp) END, "
        "IFNULL(hash, ''), IFNULL(width, 0), IFNULL(height, 0), reason "
        "FROM images ORDER BY row"
    )
    with pq.ParquetWriter(path, _INDEX_SCHEMA, compression="zstd") as writer:
        for lines in index.batches(query):
            values = zip(*lines, strict=True)
            columns = [_arrow(column, field.type) for column, field in zip(values, _INDEX_SCHEMA, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=_INDEX_SCHEMA))


def _arrow(values: tuple[Any, ...], kind: pa.DataType) -> pa.Array:
    """Build an Arrow column from its buffers."""
    # `pa.array` would import pandas to look at the type of the values: a second and 40 MB.
    if kind != pa.string():
        data = np.array(values, str(kind))  # "int64" and "int32" are called so in both
        return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(data)])
    texts = [value.encode() for value in values]
    # A string column is offsets (n + 1,) int32 and the UTF-8 bytes of all values (Arrow columnar format, "Variable-size
    # Binary Layout"). A batch of 4,096 ids is far from the 2 GB that int32 can address.
    offsets = np.zeros(len(texts) + 1, np.int32)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    return pa.Array.from_buffers(kind, len(texts), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(texts))])


def _listed(index: Index, split: str) -> list[dict[str, str]]:
    query = "SELECT id, reason FROM images WHERE split = ? ORDER BY row LIMIT ?"
    return [{"name": name, "reason": reason} for name, reason in index.lines(query, split, LISTED_IMAGES)]


def _write_sheet(out_dir: Path, index: Index, class_names: tuple[str, ...], class_counts: dict[str, list[int]]) -> None:
    """Write the contact sheet with training images of each class, those of lowest hash: random, and always the same."""
    images = np.load(out_dir / "images.npy", mmap_mode="r")
    query = "SELECT row FROM images WHERE split = 'train' AND label = ? ORDER BY hash LIMIT ?"
    samples = []
    for label, name in enumerate(class_names):
        rows = [row for (row,) in index.lines(query, label, SHEET_IMAGES)]
        counts: dict[str, int] = {split: class_counts[split][label] for split in SPLIT_NAMES}
        samples.append(ClassSample(name, counts, [images[row] for row in rows]))
    for bond, count in list(index.lines(f"{_GROUPS} ORDER BY n DESC, bond LIMIT ?", SHEET_GROUPS)):
        query = "SELECT row, id, split FROM images WHERE bond = ? ORDER BY row LIMIT ?"
        members = list(index.lines(query, bond, SHEET_IMAGES))
        title = f"group: {members[0][1].rpartition('/')[2]} …"
        samples.append(ClassSample(title, {members[0][2]: count}, [images[row] for row, _, _ in members]))
    save_sheets(partial(contact_sheet, samples), out_dir / "contact_sheet.png")
