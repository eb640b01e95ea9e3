"""Decode, hash and resize images in worker processes that write straight into `images.npy`.

Pixels never travel between processes: a worker gets row numbers and locators, and gives back figures.
"""

from __future__ import annotations

import errno
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from xxhash import xxh3_128

from gapgate.data.sources.base import Pixels, Reader
from gapgate.data.transform import Transform
from gapgate.errors import DataError, ImageError, ImageFault

CHUNK_IMAGES = 32
"""Images in one message to a worker."""
CHUNKS_IN_FLIGHT = 4
"""Messages underway for each worker: enough that none waits, few enough that memory stays flat."""
MIN_IMAGES_FOR_WORKERS = 2000
"""Fewer images are decoded in this process before workers have started."""

_REMEDIES = {ImageFault.TOO_MANY_PIXELS: "make it smaller, or raise preprocess.max_pixels"}

Job = tuple[int, str]
"""(row, locator)"""


class Decoded(NamedTuple):
    """What is known of one image after decoding."""

    row: int
    content_hash: str | None
    width: int | None
    height: int | None
    sums: tuple[int, ...]
    """(C,) sum of the values of each channel of the resized image."""
    squares: tuple[int, ...]
    """(C,) sum of their squares."""
    reason: str
    """Why the image cannot be used and what to do about it, else empty."""


@dataclass(slots=True)
class Decoder:
    """Turns jobs into rows of an open `images.npy`."""

    reader: Reader
    transform: Transform
    path: Path
    """The `.npy` file, with its header and its full length."""
    offset: int
    """Bytes of its header."""
    _file: int = field(default=-1, init=False)

    def open(self) -> None:
        """Open the file for writing; once in each process."""
        self._file = os.open(self.path, os.O_WRONLY)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def decode(self, jobs: Sequence[Job]) -> list[Decoded]:
        """Write the rows of some jobs; the row of an unusable image stays zero."""
        return [self._decode(row, locator) for row, locator in jobs]

    def _decode(self, row: int, locator: str) -> Decoded:
        try:
            stored = self.reader.read(locator, self.transform.max_pixels)
        except ImageError as error:
            return Decoded(row, None, None, None, (), (), str(error.advised(_REMEDIES)))
        if isinstance(stored, Image.Image):
            (width, height), pixels = stored.size, self.transform.apply_to_image(stored)
        else:
            (height, width), pixels = stored.shape[:2], self.transform.apply(stored)
        pixels = np.ascontiguousarray(pixels)
        if os.pwrite(self._file, pixels.data, self.offset + row * pixels.nbytes) != pixels.nbytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        sums, squares = channel_sums(pixels)
        return Decoded(row, content_hash(stored), width, height, sums, squares, "")


def content_hash(stored: Pixels) -> str:
    """XXH3 with 128 bits, in hex, over the shape and the pixels as stored: no setting changes it.

    A file and an array with the same pixels have the same hash. It finds duplicates, not forgeries (the sha256 of each
    file is in the Dataset artifact); BLAKE2b took a quarter of the time of decoding a small photo.
    """
    pixels = np.asarray(stored)  # for a Pillow image twice as fast as tobytes()
    height, width = pixels.shape[:2]
    digest = xxh3_128(f"{height} {width} {pixels.size // (height * width)} ".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def channel_sums(pixels: NDArray[np.uint8]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Exact sums of the values and of their squares for each channel of (H, W, C) pixels.

    float32 is exact here, because 256 rows of squares stay below 2²⁴, and with einsum ten times as fast as int64.
    """
    height, width, channels = pixels.shape
    totals = np.zeros((2, channels), np.int64)
    for start in range(0, height, 256):
        values = pixels[start : start + 256].reshape(-1, width * channels).astype(np.float32)
        columns = np.einsum("ij->j", values), np.einsum("ij,ij->j", values, values)
        totals += np.array(columns).reshape(2, width, channels).sum(axis=1, dtype=np.int64)
    sums, squares = totals.tolist()
    return tuple(sums), tuple(squares)


def decode_all(decoder: Decoder, jobs: Iterable[Job], num_images: int, num_workers: int) -> Iterator[list[Decoded]]:
    """Run all jobs and stream the results, a chunk at a time.

    Raises:
        DataError: a worker was killed.
        OSError: `images.npy` cannot be written.
    """
    decoder.open()
    try:
        if num_workers == 1 or num_images < MIN_IMAGES_FOR_WORKERS:
            yield from map(decoder.decode, _chunks(jobs))
        else:
            yield from _decode_in_workers(decoder, _chunks(jobs), num_workers)
    finally:
        decoder.close()


def prepare_workers(num_images: int, num_workers: int) -> None:
    """Let the server that workers are forked from start now, in the background, if `decode_all` will need it."""
    if num_workers > 1 and num_images >= MIN_IMAGES_FOR_WORKERS:
        _context()
        forkserver.ensure_running()


def _context() -> ForkServerContext:
    """Workers are forked from a server that has imported what they need: a fork of this process could hang, since it
    may have threads (a tracker's), and each spawned worker would import NumPy, Pillow and pydantic anew."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    return context


def _chunks(jobs: Iterable[Job]) -> Iterator[list[Job]]:
    remaining = iter(jobs)
    while chunk := list(islice(remaining, CHUNK_IMAGES)):
        yield chunk


def _decode_in_workers(decoder: Decoder, chunks: Iterator[list[Job]], num_workers: int) -> Iterator[list[Decoded]]:
    pool = ProcessPoolExecutor(num_workers, _context(), _start_worker, (decoder,))
    underway: deque[Future[list[Decoded]]] = deque()
    try:
        yield from _decode_until_started(decoder, chunks, pool)
        for chunk in chunks:
            underway.append(pool.submit(_decode_in_worker, chunk))
            if len(underway) >= CHUNKS_IN_FLIGHT * num_workers:
                yield underway.popleft().result()
        while underway:
            yield underway.popleft().result()
    except BrokenProcessPool:
        raise DataError("a decoding process was killed (out of memory?); lower preprocess.num_workers") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _decode_until_started(
    decoder: Decoder, chunks: Iterator[list[Job]], pool: ProcessPoolExecutor
) -> Iterator[list[Decoded]]:
    """Work in this process for the half second or more that the first worker needs to start."""
    with ThreadPoolExecutor(1) as starter:
        start = starter.submit(lambda: pool.submit(_decode_in_worker, []).result())
        while not start.done() and (chunk := next(chunks, None)) is not None:
            yield decoder.decode(chunk)
        start.result()


_decoder: Decoder
"""Of this worker process."""


def _start_worker(decoder: Decoder) -> None:
    global _decoder
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what matters of these becomes a reason in the report
    decoder.open()
    _decoder = decoder


def _decode_in_worker(jobs: list[Job]) -> list[Decoded]:
    return _decoder.decode(jobs)
