"""Functions that unpack a `.bento` archive, a tar in xz: all of it for BentoML, or only the model package."""

from __future__ import annotations

import errno
import lzma
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from gapgate.errors import ArtifactError, storage_errors

MODEL = PurePosixPath("src/model")
"""Folder of the model package inside a Bento."""
MAX_UNPACKED_BYTES = 8 * 2**30
_CHUNK_BYTES = 2**20
_MAX_HEADER_BYTES = 2**14
"""Most bytes of one member's header with its extensions; ours have 512, or 1,536 for a long name. Before Python 3.11.10
`tarfile` searches a header in quadratic time and keeps the GIL (CVE-2024-6232): 16 KiB of digits took 0.5 s, 60 KiB
6.5 s."""
_MAX_HEADERS_BYTES = 2**21
"""Most bytes of the headers of all members, so at most 4,096 members; ours have about 20 kB."""
_MAX_DEPTH = 32
"""Most folders in a name. `shutil.rmtree` is recursive: at a depth of about a thousand it fails and removes nothing."""
_SHOWN_CHARACTERS = 80
_MAX_XZ_MEMORY_BYTES = 128 * 2**20
"""Most memory that xz may use; a file of `xz -9` needs 65 MiB."""


def unpack(bento_path: Path, folder: Path) -> Path:
    """Extract a `.bento` archive into `folder`, which is emptied before; return the absolute path of `folder`.

    Raises:
        ArtifactError: the archive is missing or is no Bento.
    """
    with _emptied(folder), _named_errors(bento_path), lzma.open(bento_path) as stream:
        with tarfile.open(fileobj=stream) as archive:
            archive.extractall(folder, filter="data")
        _read_to_end(stream)  # tarfile stops at its own end, before the checks of xz
    if not (folder / "bento.yaml").is_file():
        raise ArtifactError(f"{bento_path} is not a Bento (it has no bento.yaml); run the package step again")
    return folder.resolve()


def unpack_model(bento_path: Path, folder: Path, *, max_bytes: int = MAX_UNPACKED_BYTES) -> Path:
    """Extract only the files of `src/model` into `folder`, which is emptied before; return its absolute path.

    Safe for archives from other places: nothing is written outside `folder`, no link is made or followed, and the use
    of disk and memory is bounded, whatever sizes the archive states.

    Raises:
        ArtifactError: the archive is missing, is no Bento, unpacks to more than `max_bytes`, or holds a link, a device,
            a sparse file, headers of more than 16 KiB or 2 MiB in all, or a name that is too long, too deep or leads
            out of it.
    """
    with _emptied(folder), _named_errors(bento_path), bento_path.open("rb") as file:
        stream = _Decompressed(file)
        headers_bytes = 0
        # "r|" reads forward only: each byte is decompressed once, and no member can point back to another.
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            while (member := archive.next()) is not None:
                name = _safe_name(archive, member)
                # Before the content is read: the size in the header is what `tarfile` will read.
                if stream.read_bytes + member.size > max_bytes:
                    raise ArtifactError(f"{bento_path} unpacks to more than the limit of {max_bytes:,} bytes")
                headers_bytes += member.offset_data - member.offset
                if headers_bytes > _MAX_HEADERS_BYTES:
                    raise ArtifactError(f"{bento_path} holds more than {_MAX_HEADERS_BYTES:,} bytes of headers")
                # The content, and then the rest of its last block of 512 bytes with the next header.
                stream.allow(member.size + _MAX_HEADER_BYTES)
                if member.isreg():
                    target = folder / name.relative_to(MODEL) if name.is_relative_to(MODEL) else None
                    _extract(archive, member, target)
                archive.members.clear()  # type: ignore[attr-defined]  # it keeps every header that it read
                stream.allow(_MAX_HEADER_BYTES)
        _read_to_end(stream)
    if not any(folder.iterdir()):
        raise ArtifactError(f"{bento_path} is not a Bento (it has no {MODEL}); run the package step again")
    return folder.resolve()


class _Decompressed(RawIOBase):
    """Decompressed content of an xz file, read forward and no further than `allow` permits: 16 KiB at first.

    `tarfile` holds a header in memory whole, whatever its size, and xz expands up to 7,000 times: an archive of 92 kB
    had a header of 600 MB. `lzma.open` has no memory limit either.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._xz = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_XZ_MEMORY_BYTES)
        self.read_bytes = 0
        self._end = _MAX_HEADER_BYTES

    def allow(self, count_bytes: int) -> None:
        """Permit the next `count_bytes` bytes to be read, and no more."""
        self._end = self.read_bytes + count_bytes

    def read(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes; none at the end of the file, whose checks have passed by then.

        Raises:
            EOFError: the file ends too early.
            lzma.LZMAError: the file is damaged or continues after its end, or a header is too long.
        """
        # The decompressor may take a whole chunk and give nothing yet, and an empty answer would mean the end.
        data = b""
        while not data and not self._xz.eof:
            compressed = self._file.read(_CHUNK_BYTES) if self._xz.needs_input else b""
            if self._xz.needs_input and not compressed:
                raise EOFError("it ends too early")
            data = self._xz.decompress(compressed, size)
        # liblzma stops at the end of the first stream; bytes after it would be covered by no check.
        if not data and (self._xz.unused_data or self._file.read(1)):
            raise lzma.LZMAError("something follows its end")
        self.read_bytes += len(data)
        if self.read_bytes > self._end:
            raise lzma.LZMAError(f"it holds a header of more than {_MAX_HEADER_BYTES:,} bytes")
        return data


@contextmanager
def _emptied(folder: Path) -> Iterator[None]:
    with storage_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield


@contextmanager
def _named_errors(bento_path: Path) -> Iterator[None]:
    """Turn the errors of tarfile and lzma for a damaged, foreign or missing archive into an `ArtifactError`."""
    try:
        yield
    except FileNotFoundError:
        raise ArtifactError(f"{bento_path} is missing; run the package step") from None
    except IsADirectoryError:
        raise ArtifactError(f"{bento_path} is a folder; name the .bento file in it") from None
    # tarfile raises ValueError for a field that is not a number, and RecursionError where many headers extend the next.
    except (tarfile.TarError, lzma.LZMAError, EOFError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{bento_path} is not a Bento ({error}); run the package step again") from None


def _read_to_end(stream: IO[bytes] | RawIOBase) -> None:
    """Read the rest of a stream: xz keeps its checks at the end, and with them any changed byte is an error."""
    while stream.read(_CHUNK_BYTES):
        pass


def _safe_name(archive: tarfile.TarFile, member: tarfile.TarInfo) -> PurePosixPath:
    """Return the name of a member.

    Raises:
        ArtifactError: the name leads out of the archive or is too deep, or the member is no plain file or folder.
    """
    name, shown = PurePosixPath(member.name), _shown(member)
    if name.is_absolute() or ".." in name.parts or "\0" in member.name:
        raise ArtifactError(f"the archive holds the name {shown}, which leads out of it; do not trust it")
    if len(name.parts) > _MAX_DEPTH:
        raise ArtifactError(f"the archive holds {shown}, more than {_MAX_DEPTH} folders deep; do not trust it")
    if not (member.isreg() or member.isdir()):
        raise ArtifactError(f"the archive holds {shown}, which is neither file nor folder; do not trust it")
    # A sparse file is larger than its part of the archive; headers for all members can change the sizes of any.
    if member.issparse() or member.size < 0 or archive.pax_headers:
        raise ArtifactError(f"the archive hides the true size of {shown}; do not trust it")
    return name


def _shown(member: tarfile.TarInfo) -> str:
    """Return the name of a member for a message, escaped and cut, because messages go into answers and logs."""
    whole = len(member.name) <= _SHOWN_CHARACTERS
    return repr(member.name) if whole else f"{member.name[:_SHOWN_CHARACTERS]!r}..."


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path | None) -> None:
    """Write a member to `target`; without a target, only read past it."""
    source = archive.extractfile(member)
    if source is None:
        raise ArtifactError(f"the archive has no content for {_shown(member)}; run the package step again")
    if target is None:
        return _read_to_end(source)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # "x": a second member of the same name fails, so what was extracted is never written over.
        with target.open("xb") as file:
            shutil.copyfileobj(source, file, _CHUNK_BYTES)
    except (FileExistsError, NotADirectoryError):
        raise ArtifactError(f"the archive holds {_shown(member)} twice; run the package step again") from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise ArtifactError(f"the archive holds a name of {len(member.name):,} characters; do not trust it") from None
    return None
