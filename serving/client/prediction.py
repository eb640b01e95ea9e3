"""Predictions for image files in batches, for `gapgate predict`.

`Local` answers in this process, `serving.client.remote` asks a server; both return the rows of the same files in the
same order.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapgate.data import formats
from gapgate.errors import DataError, ImageError, ImageFault
from gapgate.hidden import is_hidden

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from serving.guard.image_guard import Limits
    from serving.model.predictor import Predictor

BATCH_SIZE = 64

_SUFFIXES = formats.suffixes(formats.FORMATS)
"""Suffixes of the formats that training reads, as `Local` does."""


@dataclass(frozen=True, slots=True)
class Row:
    """One image file with its answer, or the reason why it has none."""

    file: str
    """Path as it was found; bytes that are no UTF-8 are replaced."""
    model: str
    """Name of the registered model that answered."""
    version: str
    """Version of that model."""
    receipt: str
    """Digest of the model's receipt."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """The most probable classes with their probabilities, in descending order; none if there is an error."""
    error: str = ""
    """Reason why there is no answer; empty if there is one."""

    @property
    def class_name(self) -> str:
        """The most probable class; empty if there is an error."""
        return next(iter(self.probabilities), "")

    @property
    def confidence(self) -> float | None:
        """Probability of the most probable class, a fraction; None if there is an error."""
        return next(iter(self.probabilities.values()), None)

    def as_dict(self) -> dict[str, Any]:
        """Return the row with the field names of the server's answers, and the file instead of the request's id."""
        answer = {"class": self.class_name, "confidence": self.confidence, "probabilities": self.probabilities}
        return {
            "file": self.file,
            **({"error": self.error} if self.error else answer),
            "model": {"name": self.model, "version": self.version},
            "receipt": self.receipt,
        }


class Answerer(ABC):
    """A model that answers files, batch by batch and from several threads at once."""

    threads: int
    """Number of batches in work at a time."""
    no_answer: Row
    """A row of the model, for a file that cannot be read."""

    @abstractmethod
    def batches(self, files: Iterable[Path]) -> Iterator[list[Path]]:
        """Yield the files in order, as batches that `answer` takes."""

    @abstractmethod
    def classify(self, images: list[bytes]) -> Iterable[Row]:
        """Return a row without a file name for each image file."""

    def content(self, file: Path) -> bytes | str:
        """Return what to classify of a file, or the reason why it has no answer."""
        return read(file)

    @abstractmethod
    def stop(self) -> None:
        """End the calls of `answer` in progress as soon as possible."""

    def answer(self, files: list[Path]) -> list[Row]:
        """Return a row for each file."""
        contents = [self.content(file) for file in files]
        found = iter(self.classify([content for content in contents if isinstance(content, bytes)]))
        rows = []
        for file, content in zip(files, contents, strict=True):
            row = next(found) if isinstance(content, bytes) else replace(self.no_answer, error=content)
            # Text that any encoding of Unicode can hold: bytes of a path that are no UTF-8 are replaced.
            rows.append(replace(row, file=os.fsencode(file).decode(errors="replace")))
        return rows


def find_images(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Return the files among `paths` and all image files in the folders among them, each once, a folder's by name; and
    the files in the folders that are no images.

    Folders are read with their subfolders; hidden files and what systems leave behind are left out. A file without a
    suffix is an image if it begins like one.

    Raises:
        DataError: a path does not exist, or there is no image at all.
    """
    paths = list(paths)
    found: dict[Path, None] = {}
    skipped: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            for file in _files_below(path):
                (found if _is_image(file) else skipped)[file] = None
        elif path.exists():
            found[path] = None
        else:
            raise DataError(f"no such file or folder: {path}")
    if not found:
        listed = ", ".join(map(str, paths))
        raise DataError(f"there is no image in {listed}; files count that end in {', '.join(sorted(_SUFFIXES))}")
    return list(found), [file for file in skipped if file not in found]


def predict(answerer: Answerer, files: Iterable[Path]) -> Iterator[list[Row]]:
    """Yield the rows of all files in order, batch by batch as they are ready.

    Raises:
        GapgateError: an error of the answerer. An image that cannot be used raises nothing: its row has the error.
    """
    waiting: deque[Future[list[Row]]] = deque()
    pool = ThreadPoolExecutor(answerer.threads, thread_name_prefix="predict")
    try:
        for batch in answerer.batches(files):
            waiting.append(pool.submit(answerer.answer, batch))
            # Two batches a thread keep all threads busy. More would only be memory: the files of a million images are
            # not submitted at once.
            if len(waiting) > 2 * answerer.threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # Before `shutdown`, which waits for the threads: they may be in a wait for a busy server.
        answerer.stop()
        pool.shutdown(cancel_futures=True)


class Local(Answerer):
    """A packaged model in this process, without a server."""

    def __init__(self, package: Path, *, top_k: int, batch_size: int | None = None) -> None:
        """Load and check the package in a folder, as a server does.

        Raises:
            ArtifactError, GateError: as in `serving.model.predictor.Predictor.load`.
            SettingsError: an option in the environment has an invalid value.
        """
        from gapgate.process.cpu_quota import available_cpus
        from serving.model.predictor import Predictor

        self.threads = min(available_cpus(), 8)
        self._predictor = predictor = Predictor.load(package)
        self.no_answer = Row("", predictor.model.name, predictor.model.version, predictor.receipt)
        self._limits = limits_of(predictor)
        self._top_k = top_k
        self._batch_size = batch_size or BATCH_SIZE

    def batches(self, files: Iterable[Path]) -> Iterator[list[Path]]:
        """Yield the files in batches of `batch_size`."""
        rest = iter(files)
        while batch := list(islice(rest, self._batch_size)):
            yield batch

    def classify(self, images: list[bytes]) -> Iterator[Row]:
        """Yield a row for each image file, which is decoded as the server does."""
        from serving.http.form import Upload
        from serving.http.inputs import classify_files

        uploads = [Upload(data) for data in images]
        for answer in classify_files(self._predictor, uploads, self._limits, self._top_k, lambda: False):
            said = {"error": str(answer)} if isinstance(answer, ImageError) else {"probabilities": answer}
            yield replace(self.no_answer, **said)

    def stop(self) -> None:
        """Do nothing: a batch ends within a second."""


def limits_of(predictor: Predictor) -> Limits:
    """Limits of image files that are the user's own: without one of theirs, whatever training takes is taken.

    Raises:
        SettingsError: an option in the environment has an invalid value.
    """
    from serving.guard.image_guard import Limits
    from serving.options import Options

    options = Options.from_environment()
    has_limit = "max_pixels" in options.model_fields_set
    return Limits(options.max_pixels if has_limit else predictor.transform.max_pixels, formats=None)


def decoded(predictor: Predictor, data: bytes) -> NDArray[np.uint8]:
    """Decode one image file as the server does, to the network's input (H, W, C) uint8.

    Raises:
        ImageError: it cannot be used.
    """
    from serving.http.form import Upload
    from serving.http.inputs import decode_all

    (found,) = decode_all(predictor, [Upload(data)], limits_of(predictor), cancelled=lambda: False)
    if isinstance(found, ImageError):
        raise found
    return found


def read(file: Path) -> bytes | str:
    """Return the content of a file, or the reason why it cannot be read."""
    try:
        if file.is_dir():
            return str(ImageError(ImageFault.UNREADABLE, "is a folder", "give the files in it"))
        if file.exists() and not file.is_file():  # opening a pipe waits for its writer
            return str(ImageError(ImageFault.UNREADABLE, "is a pipe or a device", "give a file"))
        return file.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        said = getattr(error, "strerror", None) or error
        return str(ImageError(ImageFault.UNREADABLE, f"cannot be read: {said}"))


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(names):
            path = Path(parent, name)
            if not is_hidden(name) and (path.is_file() or path.is_symlink()):  # opening a pipe waits for its writer
                yield path


def _is_image(file: Path) -> bool:
    if file.suffix:
        return file.suffix.lower() in _SUFFIXES
    try:
        with file.open("rb") as opened:
            return formats.format_of(opened.read(formats.HEAD_BYTES)) is not None
    except OSError:
        return False
