"""Answering image files in batches: `gapgate predict`. In this process by `Local`; `serving.client.remote` asks a
server. Both give the rows of the same files in the same order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from gapgate.data import formats
from gapgate.errors import DataError, ImageError, ImageFault

BATCH_SIZE = 64

_SUFFIXES = formats.suffixes(formats.SERVED)
"""Of what `serving.inputs` reads."""


@dataclass(frozen=True, slots=True)
class Row:
    """One image file and its answer, or why it has none."""

    file: str
    """The path as it was found; bytes that are no UTF-8 are replaced."""
    model: str
    """Registered model that answered."""
    version: str
    receipt: str
    """Digest."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """The most probable classes, in descending order; none where there is an error."""
    error: str = ""

    @property
    def class_name(self) -> str:
        """The most probable class; empty where there is an error."""
        return next(iter(self.probabilities), "")

    @property
    def confidence(self) -> float | None:
        """Its probability, a fraction."""
        return next(iter(self.probabilities.values()), None)

    def as_dict(self) -> dict[str, Any]:
        """As the server would say it, with the file in the place of the request's id."""
        answer = {"class": self.class_name, "confidence": self.confidence, "probabilities": self.probabilities}
        return {
            "file": self.file,
            **({"error": self.error} if self.error else answer),
            "model": {"name": self.model, "version": self.version},
            "receipt": self.receipt,
        }


class Answerer(Protocol):
    """What answers files, batch by batch and from several threads at once."""

    threads: int
    """Batches in work at a time."""

    def batches(self, files: Iterable[Path]) -> Iterator[list[Path]]:
        """The files as batches that `answer` takes, in order."""
        ...

    def answer(self, files: list[Path]) -> list[Row]:
        """A row for each file."""
        ...

    def stop(self) -> None:
        """Give up what is under way."""
        ...


def find_images(paths: Iterable[Path]) -> list[Path]:
    """The files among `paths`, and all image files in the folders among them: each once, a folder's in order of name.

    Folders are read with those below them; what begins with a dot is left out.

    Raises:
        DataError: a path that is not there, or no image at all.
    """
    paths = list(paths)
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            found |= dict.fromkeys(_images_below(path))
        elif path.exists():
            found[path] = None
        else:
            raise DataError(f"no such file or folder: {path}")
    if not found:
        listed = ", ".join(map(str, paths))
        raise DataError(f"there is no image in {listed}; files count that end in {', '.join(sorted(_SUFFIXES))}")
    return list(found)


def predict(answerer: Answerer, files: Iterable[Path]) -> Iterator[list[Row]]:
    """The rows of all files, in their order, batch by batch as they are ready.

    Raises:
        GapgateError: the answerer's; an image that cannot be used is a row with its error instead.
    """
    waiting: deque[Future[list[Row]]] = deque()
    pool = ThreadPoolExecutor(answerer.threads, thread_name_prefix="predict")
    try:
        for batch in answerer.batches(files):
            waiting.append(pool.submit(answerer.answer, batch))
            if len(waiting) > 2 * answerer.threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        answerer.stop()
        pool.shutdown(cancel_futures=True)


class Local:
    """A packaged model in this process, without a server."""

    def __init__(self, package: Path, *, top_k: int, batch_size: int | None = None) -> None:
        """Load and prove the package in a folder, as a server does.

        Raises:
            ArtifactError, GateError: as `serving.predictor.Predictor.load`.
            SettingsError: an option in the environment that does not fit.
        """
        from gapgate.cpu_quota import available_cpus
        from serving.options import Options
        from serving.predictor import Predictor

        self.threads = min(available_cpus(), 8)
        self._predictor = predictor = Predictor.load(package)
        self._source = (predictor.model.name, predictor.model.version, predictor.receipt)
        self._max_pixels = Options.from_environment().max_pixels
        self._top_k = top_k
        self._batch_size = batch_size or BATCH_SIZE

    def batches(self, files: Iterable[Path]) -> Iterator[list[Path]]:
        """As many files as a batch holds."""
        rest = iter(files)
        while batch := list(islice(rest, self._batch_size)):
            yield batch

    def answer(self, files: list[Path]) -> list[Row]:
        """A row for each file."""
        contents = [read(file) for file in files]
        answers = iter(self._classify([content for content in contents if isinstance(content, bytes)]))
        rows = []
        for file, content in zip(files, contents, strict=True):
            found = content if isinstance(content, str) else next(answers)
            rows.append(
                Row(
                    name_of(file),
                    *self._source,
                    probabilities={} if isinstance(found, str) else found,
                    error=found if isinstance(found, str) else "",
                )
            )
        return rows

    def stop(self) -> None:
        """Nothing: a batch ends within a second."""

    def _classify(self, images: list[bytes]) -> Iterator[dict[str, float] | str]:
        """Probabilities of each image file, or what is wrong with it; decoded as the server does."""
        import numpy as np

        from serving.inputs import Upload, decode_all

        uploads = [Upload(data) for data in images]
        decoded = decode_all(self._predictor, uploads, self._max_pixels, cancelled=lambda: False)
        pixels = [found for found in decoded if isinstance(found, np.ndarray)]
        probabilities = self._predictor.probabilities(np.stack(pixels)) if pixels else None
        ranked = iter(() if probabilities is None else self._predictor.ranked(probabilities, self._top_k))
        for found in decoded:
            yield next(ranked) if isinstance(found, np.ndarray) else str(found)


def read(file: Path) -> bytes | str:
    """The content of a file, or why it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        return str(ImageError(ImageFault.UNREADABLE, f"cannot be read: {error.strerror or error}"))


def name_of(file: Path) -> str:
    """A path as text that can be written anywhere."""
    return os.fsencode(file).decode(errors="replace")


def _images_below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in _SUFFIXES:  # noqa: PTH122
                yield Path(parent, name)
