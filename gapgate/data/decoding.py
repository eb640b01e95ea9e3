"""Decode, hash and resize images in worker processes that write straight into `images.npy`.

No pixels are sent between processes: a worker gets row numbers and locators, and returns figures.
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
"""Number of images in one message to a worker."""
CHUNKS_IN_FLIGHT = 4
"""Number of messages under way for each worker: enough that no worker waits, few enough that memory stays flat."""
MIN_IMAGES_FOR_WORKERS = 2000
"""Least number of images for starting workers; this process decodes fewer before workers would be ready."""

_REMEDIES = {ImageFault.TOO_MANY_PIXELS: "make it smaller, or raise preprocess.max_pixels"}

Job = tuple[int, str]
"""Row of `images.npy` and locator of an image."""


class Decoded(NamedTuple):
    """Result of decoding one image."""

    row: int
    content_hash: str | None
    width: int | None
    height: int | None
    sums: tuple[int, ...]
    """Sum of the values of each channel of the resized image, (C,)."""
    squares: tuple[int, ...]
    """Sum of the squared values of each channel, (C,)."""
    reason: str
    """Reason why the image cannot be used, with the remedy; empty for a usable image."""
    form: str = ""
    """Pillow's name of the file's format; empty for an array."""


@dataclass(slots=True)
class Decoder:
    """Decoder of jobs into rows of an open `images.npy`."""

    reader: Reader
    transform: Transform
    path: Path
    """Path of the `.npy` file, which has its header and its full length already."""
    offset: int
    """Length of the file's header in bytes."""
    _file: int = field(default=-1, init=False)

    def open(self) -> None:
        """Open the file for writing, once in each process."""
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
            form = stored.format or ""
        else:
            (height, width), pixels = stored.shape[:2], self.transform.apply(stored)
            form = ""
        pixels = np.ascontiguousarray(pixels)
        # pwrite may write less than asked when the disk fills up (pwrite(2)), and only the next call would then fail.
        if os.pwrite(self._file, pixels.data, self.offset + row * pixels.nbytes) != pixels.nbytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        sums, squares = channel_sums(pixels)
        return Decoded(row, content_hash(stored), width, height, sums, squares, "", form)


def content_hash(stored: Pixels) -> str:
    """Compute XXH3 with 128 bits, in hex, over the shape and the pixels as stored, so that no setting changes it.

    A file and an array with the same pixels have the same hash. It finds duplicates, not forgeries (the sha256 of each
    file is in the Dataset artifact).
    """
    pixels = np.asarray(stored)  # for a Pillow image twice as fast as tobytes()
    height, width = pixels.shape[:2]
    # The shape too: 2 × 8 and 4 × 4 pixels of the same bytes are different images. BLAKE2b instead of XXH3 took a
    # quarter of the time of decoding a small photo.
    digest = xxh3_128(f"{height} {width} {pixels.size // (height * width)} ".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def channel_sums(pixels: NDArray[np.uint8]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Compute the exact sums of the values and of their squares for each channel of (H, W, C) uint8 pixels."""
    # float32 is exact up to 2²⁴, and 256 · 255² is below it; einsum on float32 is ten times as fast as on int64.
    height, width, channels = pixels.shape
    totals = np.zeros((2, channels), np.int64)  # of the values, of their squares
    for start in range(0, height, 256):
        # Columns of pixels first, in float32; their totals over the width, which can be larger, in int64.
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
    """Start the fork server of the workers now, in the background, if `decode_all` will need it."""
    if num_workers > 1 and num_images >= MIN_IMAGES_FOR_WORKERS:
        _context()
        forkserver.ensure_running()


def _context() -> ForkServerContext:
    """Return the context of a fork server that has imported this module."""
    # A fork of this process could hang in a lock of one of its threads (a tracker's), and each spawned worker would
    # import NumPy, Pillow and pydantic again.
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
            # Results are taken in the order of the chunks, so the rows arrive in the same order in every run.
            underway.append(pool.submit(_decode_in_worker, chunk))
            if len(underway) >= CHUNKS_IN_FLIGHT * num_workers:
                yield underway.popleft().result()
        while underway:
            yield underway.popleft().result()
    except BrokenProcessPool:
        raise DataError("a decoding process was killed (out of memory?); lower preprocess.num_workers") from None
    finally:
        # After an error, the chunks that wait (up to 4 a worker) would else be decoded for nothing.
        pool.shutdown(wait=True, cancel_futures=True)


def _decode_until_started(
    decoder: Decoder, chunks: Iterator[list[Job]], pool: ProcessPoolExecutor
) -> Iterator[list[Decoded]]:
    """Decode in this process until the first worker has started, which takes half a second or more."""
    # `submit` itself starts the processes and so blocks; an empty job in a thread tells when the first one answers.
    with ThreadPoolExecutor(1) as starter:
        start = starter.submit(lambda: pool.submit(_decode_in_worker, []).result())
        while not start.done() and (chunk := next(chunks, None)) is not None:
            yield decoder.decode(chunk)
        start.result()


_decoder: Decoder
"""Decoder of this worker process, set by `_start_worker`."""


def _start_worker(decoder: Decoder) -> None:
    global _decoder
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what matters becomes a reason in the report
    decoder.open()
    _decoder = decoder


def _decode_in_worker(jobs: list[Job]) -> list[Decoded]:
    return _decoder.decode(jobs)
