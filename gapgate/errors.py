"""Every error a user can meet, in one tree.

A message gives the value, the limit and the remedy in one line; the command line prints it without a traceback and
ends with the class's exit code.

    GapgateError (2)
    ├── SettingsError     an unknown setting, a wrong type, a value out of range
    ├── DataError         a source that is missing, empty, inconsistent or too small
    │   └── RemoteAwayError (75) a git or DVC remote does not answer
    ├── ImageError        one image that cannot be used, with the kind of its fault
    ├── ArtifactError     a directory that is incomplete, of another kind, or changed since it was written
    ├── StorageError      a full disk, no permission
    ├── MemoryLackError (1) less memory than the work needs
    ├── AcceleratorError  a requested device that this process does not see
    ├── RegistryError     a model name, version or alias that is not there
    ├── ServeError        a server that does not start
    ├── ClusterError      Kubeflow Pipelines refuses a call, or cannot do what a run asks for
    │   └── ClusterAwayError (4) it does not answer
    ├── GateError (3)     the evidence does not carry the model
    └── TrackingError (4) the tracking server does not answer; what it should get waits in the spool
        └── TrackingRefusedError (2) it answers and refuses: the password is wrong, or the call
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from gapgate.text import printable, redacted

PASSING_EXIT_CODE = 75
"""Exit code of a step that a passing fault ended: EX_TEMPFAIL of sysexits.h."""
EXIT_CODES: Mapping[int, str] = {
    0: "done; the model passed",
    1: "some images have no answer; data/ differs from its pin; or a fault in the program",
    2: "a mistake that you can mend; the message says how",
    3: "the gate did not pass; the model is registered without an alias and not packaged",
    4: "not registered yet, or the cluster is away; `gapgate sync` catches up once the tracking server answers",
    PASSING_EXIT_CODE: "a data remote is away; in a pod MLflow too, after the tries; the same run may succeed later",
}
"""Exit code → its meaning, of which the part before the first semicolon stands in `gapgate --help`."""


class GapgateError(Exception):
    """A mistake or a lack that the user can mend.

    Its text is one line, without control characters for a terminal and without the secrets of the URLs in it.
    """

    exit_code = 2
    is_passing = False
    """True if the same call may succeed a minute later, without anybody's doing."""

    def __str__(self) -> str:
        return printable(redacted(super().__str__()))


class SettingsError(GapgateError):
    """A setting that is unknown, of the wrong type or out of range."""


class DataError(GapgateError):
    """A data source that is missing, empty, inconsistent or too small."""


class RemoteAwayError(DataError):
    """A git or DVC remote that does not answer, or answers that it is overloaded."""

    exit_code = PASSING_EXIT_CODE
    is_passing = True


class ImageFault(StrEnum):
    """The kinds of fault that make an image unusable."""

    UNREADABLE = "unreadable"
    """The file is not there, or may not be read."""
    EMPTY = "empty"
    UNKNOWN_FORMAT = "unknown_format"
    UNSUPPORTED = "unsupported"
    """A rare kind of a known format, such as a JPEG file of 12 bits, or a format that is not taken here."""
    TRUNCATED = "truncated"
    DAMAGED = "damaged"
    TOO_MANY_PIXELS = "too_many_pixels"
    NO_FIXED_RANGE = "no_fixed_range"
    """Floating-point or 32-bit pixels: nothing says which value is white."""
    TOO_COSTLY = "too_costly"
    """A structure that takes far more time or memory to decode than the size of the file lets expect."""


IMAGE_REMEDIES: Mapping[ImageFault, str] = {
    ImageFault.UNREADABLE: "check that the file is there and may be read",
    ImageFault.EMPTY: "copy the whole file again",
    ImageFault.UNKNOWN_FORMAT: "save it as PNG or JPEG",
    ImageFault.UNSUPPORTED: "save it as PNG or JPEG with 8 bits",
    ImageFault.TRUNCATED: "copy the whole file again",
    ImageFault.DAMAGED: "save it anew",
    ImageFault.TOO_MANY_PIXELS: "make it smaller",
    ImageFault.NO_FIXED_RANGE: "save the image with 8 or 16 bits",
    ImageFault.TOO_COSTLY: "save the image anew",
}
"""Remedy of each fault, where the place that reports it has no better one."""


class ImageError(GapgateError):
    """One image that cannot be used. `str(error)` is its reason and its remedy: "the image is truncated; ..."."""

    def __init__(self, kind: ImageFault, reason: str, remedy: str = "") -> None:
        """Take the remedy of the kind where none is given."""
        super().__init__(kind, reason, remedy)  # all three, so that the error can be pickled
        self.kind = kind
        self.reason = reason
        self.remedy = remedy or IMAGE_REMEDIES[kind]

    def __str__(self) -> str:
        return printable(f"{self.reason}; {self.remedy}")

    def advised(self, remedies: Mapping[ImageFault, str]) -> ImageError:
        """The same error with the remedy that fits where it is reported."""
        return ImageError(self.kind, self.reason, remedies.get(self.kind, self.remedy))


class ArtifactError(GapgateError):
    """A directory that is incomplete, of another kind, or changed since it was written."""


class StorageError(GapgateError):
    """A disk that is full, or a place that may not be written."""


class MemoryLackError(GapgateError):
    """Less memory or address space than the work needs."""

    exit_code = 1


class AcceleratorError(GapgateError):
    """A device that was asked for and is not seen by this process."""


class RegistryError(GapgateError):
    """A model name, version or alias that the registry does not hold."""


class ServeError(GapgateError):
    """A server that does not start: its address is taken, or its log says why."""


class ClusterError(GapgateError):
    """Kubeflow Pipelines refuses a call, or cannot do what a run asks for."""


class ClusterAwayError(ClusterError):
    """Kubeflow Pipelines does not answer."""

    exit_code = 4


class GateError(GapgateError):
    """The gate did not pass."""

    exit_code = 3


class TrackingError(GapgateError):
    """The tracking server does not answer; what it should get waits in the spool."""

    exit_code = 4
    is_passing = True


class TrackingRefusedError(TrackingError):
    """The tracking server answers and refuses: credentials that it does not know, no right, or a wrong call."""

    exit_code = 2
    is_passing = False


def named(name: str, message: str) -> GapgateError:
    """The error of a class of this tree, as another process reported it; one of the root for a name that is not in
    it."""
    found = globals().get(name)
    if isinstance(found, type) and issubclass(found, GapgateError) and found is not ImageError:  # which has a kind too
        return found(message)
    return GapgateError(message)


_STORAGE_REMEDIES = {
    errno.ENOSPC: "the disk is full; free space or point GAPGATE_HOME, or TMPDIR, at another disk",
    errno.EDQUOT: "the disk quota is used up; free space or point GAPGATE_HOME, or TMPDIR, at another disk",
    errno.EACCES: "no permission there; change its owner or choose another folder",
    errno.EPERM: "no permission there; change its owner or choose another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EFBIG: "the file is larger than this process may write; raise the limit (`ulimit -f`)",
    errno.ENOTDIR: "a file or a link is where a folder should be; choose another folder",
}
_CUT_OFF = re.compile(r"\d+ requested and \d+ written")
"""Message of numpy, without a number of the error, where an array did not fit (2.4)."""
_NO_MEMORY = re.compile(
    "cannot allocate memory|can't allocate memory|failed to map segment|can't start new thread", re.I
)
"""Messages of the loader of libraries, of torch and of Python's threads where memory or address space is short."""


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a limit or a missing permission below `path` into a `StorageError`; other errors pass
    unchanged."""
    try:
        yield
    except OSError as error:
        if (remedy := _remedy_of(error)) is None:
            raise
        raise StorageError(f"cannot write {error.filename or path}: {remedy}") from error


def fault_of_machine(error: Exception) -> GapgateError | None:
    """The error to show in the place of one that the machine gives where nobody foresaw it: a disk, a permission, a
    limit of memory. None for a fault of the code."""
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        said = str(error).strip() or type(error).__name__
        return MemoryLackError(
            f"not enough memory ({said}); free some, raise the limit (`ulimit -v`), or lower train.batch_size"
        )
    if isinstance(error, FileNotFoundError) and "No usable temporary directory" in str(error):
        return StorageError(f"{error.strerror}; free space there, or name a folder that may be written by TMPDIR")
    remedy = _remedy_of(error) if isinstance(error, OSError) else None
    return StorageError(f"cannot use {getattr(error, 'filename', None) or 'a file'}: {remedy}") if remedy else None


def _remedy_of(error: OSError) -> str | None:
    if error.errno is None and _CUT_OFF.fullmatch(str(error)):
        return "not all of it fits; free space, or raise the limit (`ulimit -f`)"
    return _STORAGE_REMEDIES.get(error.errno or 0)
