"""Budget of memory for the decoding of large images, shared by all workers of a server.

A WebP file of 110 kB can take 400 MB, and two at once would be the end of a worker in a container of 1 GiB.
"""

from __future__ import annotations

import fcntl
import mmap
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from gapgate.errors import ImageError, ImageFault
from gapgate.process.memory_limit import available_bytes
from serving.http.responses import ApiError

SMALL_BYTES = 32 * 2**20
"""Memory of one decoding that is not counted: the threads bound the number of those."""
SHARE = 0.75
"""Part of the free memory that decoding may take; the rest is for answers, the network and what is not counted."""
_MAX_WORKERS = 256
_SPECIAL = {"WEBP": 16, "AVIF": 16, "HEIF": 16}
"""Bytes that the decoder of a format takes for a pixel, with Pillow's copies: 16.0, 9 to 16, 7 to 16."""
_PROGRESSIVE = 12
"""Bytes a pixel of a progressive JPEG file, whose coefficients are all in memory: 10.0, and 12.0 in CMYK."""


def bytes_to_decode(header: Image.Image) -> int:
    """Return the memory that an image of `read_header` takes at most while it is decoded and turned upright."""
    # 4 bytes a pixel in colour, 1 in gray, and the same for an upright copy.
    usual = 2 if header.mode in ("1", "L", "P") else 8
    special = _PROGRESSIVE if header.info.get("progressive") else _SPECIAL.get(str(header.format), 0)
    return header.width * header.height * max(usual, special)


class Memory:
    """The budget. It is made before the workers are forked, which then share it."""

    def __init__(self, available: Callable[[], int] = available_bytes) -> None:
        self._available = available
        self.worker = 0
        """Number of this worker among those that run, from 0; the parent sets it before each fork."""
        # Anonymous and MAP_SHARED: what each worker holds, and behind it the budget.
        self._shared = memoryview(mmap.mmap(-1, 8 * (_MAX_WORKERS + 1))).cast("q")
        # The kernel gives up the lock of a process that is killed. It knows no threads, which need one of their own.
        self._file, name = tempfile.mkstemp(prefix="gapgate-lock-")
        Path(name).unlink()
        self._threads = threading.Lock()

    @contextmanager
    def held(self, num_bytes: int) -> Iterator[None]:
        """Take a part of the budget for the time of the block.

        Raises:
            ImageError: it would not fit even alone.
            ApiError: 429, it does not fit beside what is being decoded now.
        """
        if num_bytes <= SMALL_BYTES:
            yield
            return
        with self._alone():
            taken = sum(self._shared[:-1])
            if not taken:  # measured anew whenever nothing is being decoded, which would count twice
                self._shared[-1] = int(SHARE * self._available())
            budget = self._shared[-1]
            if num_bytes > budget:
                reason = f"decoding takes {num_bytes / 1e6:,.0f} MB of memory and the server has {budget / 1e6:,.0f} MB"
                raise ImageError(ImageFault.TOO_COSTLY, reason, "send a smaller image")
            if taken + num_bytes > budget:
                message = f"{taken / 1e6:,.0f} MB of memory are in use for large images; try again in a second"
                raise ApiError("overloaded", message, {"Retry-After": "1"})
            self._shared[self.worker] += num_bytes
        try:
            yield
        finally:
            with self._alone():
                self._shared[self.worker] -= num_bytes

    def ended(self, worker: int) -> None:
        """Give back what a worker that ended held."""
        with self._alone():
            self._shared[worker] = 0

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._threads:
            # Waits for other processes alone: a second thread of this one would get it at once (fcntl(2)).
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)
