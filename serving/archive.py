"""Opening a `.bento` archive, a tar in xz: whole, for BentoML, or only the model package inside it."""

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
"""Where the package lies inside a Bento."""
MAX_UNPACKED_BYTES = 8 * 2**30
_CHUNK_BYTES = 2**20
_MAX_HEADER_BYTES = 2**14
"""Of one member, with what extends it; ours have 512 bytes, or 1,536 for a long name. Before Python 3.11.10 `tarfile`
searches it in quadratic time and lets nothing else run (CVE-2024-6232): 0.5 s for 16 KiB of digits, 6.5 s for 60."""
_MAX_HEADERS_BYTES = 2**21
"""Of all members, 4,096 at most; ours have about 20 kB."""
_MAX_DEPTH = 32
"""Of a name, in folders; `shutil.rmtree` fails, and leaves it all, where it has to go down about a thousand."""
_SHOWN_CHARACTERS = 80
_MAX_XZ_MEMORY_BYTES = 128 * 2**20
"""`xz -9` asks for 65 MiB."""


def unpack(bento_path: Path, folder: Path) -> Path:
    """Extract a `.bento` archive into `folder`, replacing what was there; returns its absolute path.

    Raises:
        ArtifactError: the archive is missing or is no Bento.
    """
    with _emptied(folder), _named_errors(bento_path), lzma.open(bento_path) as stream:
        with tarfile.open(fileobj=stream) as archive:
            archive.extractall(folder, filter="data")
        _read_to_end(stream)
    if not (folder / "bento.yaml").is_file():
        raise ArtifactError(f"{bento_path} is not a Bento (it has no bento.yaml); run the package step again")
    return folder.resolve()


def unpack_model(bento_path: Path, folder: Path, *, max_bytes: int = MAX_UNPACKED_BYTES) -> Path:
    """Extract the files of `src/model` alone into `folder`, replacing what was there; returns its absolute path.

    For archives from elsewhere: nothing is written outside `folder`, no member is followed, run or linked to, and
    neither the disk nor the memory that is used grows with what the archive says of itself.

    Raises:
        ArtifactError: the archive is missing, is no Bento, unpacks to more than `max_bytes`, or holds a link, a device,
            a sparse file, headers of more than 16 KiB or 2 MiB in all, or a name that is too long, too deep or leads
            out of it.
    """
    with _emptied(folder), _named_errors(bento_path), bento_path.open("rb") as file:
        stream = _Decompressed(file)
        headers_bytes = 0
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            while (member := archive.next()) is not None:
                name = _safe_name(archive, member)
                if stream.read_bytes + member.size > max_bytes:
                    raise ArtifactError(f"{bento_path} unpacks to more than the limit of {max_bytes:,} bytes")
                headers_bytes += member.offset_data - member.offset
                if headers_bytes > _MAX_HEADERS_BYTES:
                    raise ArtifactError(f"{bento_path} holds more than {_MAX_HEADERS_BYTES:,} bytes of headers")
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
    """What a file in xz unpacks to, forward only and no further than allowed: 16 KiB at first.

    A member's header can be of any size, is held in memory whole, and xz makes 7,000 bytes of one: `tarfile` read
    600 MB of header from an archive of 92 kB. `lzma.open` takes no limit of memory either.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._xz = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_XZ_MEMORY_BYTES)
        self.read_bytes = 0
        self._end = _MAX_HEADER_BYTES

    def allow(self, count_bytes: int) -> None:
        """Let as many bytes be read from here, no more."""
        self._end = self.read_bytes + count_bytes

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes, none at the end of the whole file, which has been checked then."""
        data = b""
        while not data and not self._xz.eof:
            compressed = self._file.read(_CHUNK_BYTES) if self._xz.needs_input else b""
            if self._xz.needs_input and not compressed:
                raise EOFError("it ends too early")
            data = self._xz.decompress(compressed, size)
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
    """Turn what a damaged, foreign or missing archive makes the readers raise into an `ArtifactError`."""
    try:
        yield
    except FileNotFoundError:
        raise ArtifactError(f"{bento_path} is missing; run the package step") from None
    except IsADirectoryError:
        raise ArtifactError(f"{bento_path} is a folder; name the .bento file in it") from None
    # tarfile lets a ValueError pass for a number that is none, and nests a call for each header that extends the next.
    except (tarfile.TarError, lzma.LZMAError, EOFError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{bento_path} is not a Bento ({error}); run the package step again") from None


def _read_to_end(stream: IO[bytes] | RawIOBase) -> None:
    """To where xz keeps its checks: any changed byte is an error."""
    while stream.read(_CHUNK_BYTES):
        pass


def _safe_name(archive: tarfile.TarFile, member: tarfile.TarInfo) -> PurePosixPath:
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
    """The name in a message, which goes into answers and logs."""
    whole = len(member.name) <= _SHOWN_CHARACTERS
    return repr(member.name) if whole else f"{member.name[:_SHOWN_CHARACTERS]!r}..."


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path | None) -> None:
    """Write a member to `target`, or only read past it."""
    source = archive.extractfile(member)
    if source is None:
        raise ArtifactError(f"the archive has no content for {_shown(member)}; run the package step again")
    if target is None:
        return _read_to_end(source)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            shutil.copyfileobj(source, file, _CHUNK_BYTES)
    except (FileExistsError, NotADirectoryError):
        raise ArtifactError(f"the archive holds {_shown(member)} twice; run the package step again") from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise ArtifactError(f"the archive holds a name of {len(member.name):,} characters; do not trust it") from None
    return None
