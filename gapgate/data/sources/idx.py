"""IDX files, the format of MNIST, Fashion-MNIST, KMNIST and EMNIST (http://yann.lecun.com/exdb/mnist/)."""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from gapgate.data.sources.arrays import Block, Part, array_source
from gapgate.data.sources.base import Source
from gapgate.errors import DataError

# Both `train-images-idx3-ubyte.gz`, as it is published, and `train-images.idx3-ubyte`, as some programs unpack it.
_NAME = re.compile(r"(?P<prefix>.*?)(?P<part>train|test|t10k)-(?P<what>images|labels)[-.]idx\d-ubyte(\.gz)?")
_SPLITS = {"train": "train", "test": "test", "t10k": "test"}
_UNSIGNED_BYTE = 0x08


def find(folder: Path) -> dict[tuple[str, str], Path]:
    """Find the IDX files of a folder: (split, `images` or `labels`) → file; uncompressed ones are preferred.

    Raises:
        DataError: the folder holds files of more than one data set.
    """
    files: dict[tuple[str, str], Path] = {}
    prefixes = set()
    for path in sorted(folder.iterdir(), reverse=True):  # in reverse, x.gz comes before x, which then replaces it
        if match := _NAME.fullmatch(path.name):
            prefixes.add(match["prefix"])
            files[_SPLITS[match["part"]], match["what"]] = path
    if len(prefixes) > 1:
        names = ", ".join(sorted(prefixes))
        raise DataError(f"{folder} holds the IDX files of {len(prefixes)} data sets ({names}); leave one of them")
    return files


def open_idx(folder: Path, scratch: Path, class_names: tuple[str, ...] | None) -> Source:
    """Open the IDX files of a folder; gzipped ones are unpacked into `scratch` as a stream.

    Raises:
        DataError: images or labels are missing, a header is corrupt, or a file is truncated.
    """
    files = find(folder)
    parts = []
    for split in ("train", "test"):
        images, labels = files.get((split, "images")), files.get((split, "labels"))
        if images and labels:
            parts.append(_part(split, images, labels, scratch))
        elif found := images or labels:
            missing = "labels" if images else "images"
            raise DataError(f"{found} has no {missing} file beside it; add the {split} {missing}")
    return array_source("IDX", parts, class_names)


def _part(split: str, images: Path, labels: Path, scratch: Path) -> Part:
    data, offset, (num_images, *shape) = _open(images, scratch, dimensions=3)
    block = Block(data, offset, num_images, math.prod(shape), tuple(shape))
    codes, start, (num_labels,) = _open(labels, scratch, dimensions=1)
    if num_labels != num_images:
        raise DataError(f"{labels} has {num_labels:,} labels for {num_images:,} images; get both from one data set")
    return Part(split, split, block, np.memmap(codes, np.uint8, "r", start, (num_labels,)))


def _open(path: Path, scratch: Path, dimensions: int) -> tuple[Path, int, tuple[int, ...]]:
    """Check an IDX file and unpack it if needed; return (uncompressed file, offset of the first value, shape)."""
    # The header is 4 bytes of magic number, then the size of each dimension as a big-endian 32-bit number.
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
            shape = _shape(path, header, dimensions)
            if path.suffix != ".gz":
                held, data = path.stat().st_size - len(header), path
            else:
                data = scratch / path.stem
                held = _copy(cast(BinaryIO, file), data, header, math.prod(shape))
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError(f"{path} is truncated or corrupt; get it again") from None
    if held != math.prod(shape):
        raise DataError(f"{path} holds {held:,} bytes of values, its header says {math.prod(shape):,}; get it again")
    return data, len(header), shape


def _shape(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    # The magic number: two zeros, the type of the values (08 unsigned byte), the number of dimensions.
    if len(header) < 4 + 4 * dimensions or header[:4] != bytes((0, 0, _UNSIGNED_BYTE, dimensions)):
        raise DataError(
            f"{path} starts with {header[:4].hex(' ') or 'nothing'}, an IDX file of bytes in {dimensions} dimensions "
            f"with 00 00 08 {dimensions:02x}; get it again"
        )
    shape = struct.unpack(f">{dimensions}I", header[4:])
    if 0 in shape:
        raise DataError(f"{path} is empty (shape {shape}); get it again")
    return shape


def _copy(file: BinaryIO, target: Path, header: bytes, num_bytes: int) -> int:
    """Unpack a stream into `target` after its header; return the number of bytes of values."""
    # At most one byte more than announced is unpacked: enough to see that there is more, and a gzip bomb stays small.
    held = 0
    with target.open("wb") as out:
        out.write(header)
        while held <= num_bytes and (block := file.read(min(1 << 20, num_bytes + 1 - held))):
            out.write(block)
            held += len(block)
    return held
