"""Functions that unpack a `.bento` archive, a tar: all of it for BentoML, or only the model package.

An archive of a registered version is checked against its digest before anything in it is read. What has no digest (a
file that somebody gives, a version of before 0.3, whose archive is a tar in xz) is read with care.
"""

from __future__ import annotations

import errno
import io
import lzma
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from gapgate.artifacts import sha256_file
from gapgate.errors import ArtifactError, storage_errors

MODEL = PurePosixPath("src/model")
"""Folder of the model package inside a Bento."""
MAX_UNPACKED_BYTES = 8 * 2**30
_CHUNK_BYTES = 2**18
_MAX_READ_BYTES = 2**14
"""Most bytes that `tarfile` may read at once: it copies contents in pieces of this size, and reads a header whole. Ours
have 512 bytes, or 1,536 for a long name. Before Python 3.11.10 it searches a header in quadratic time and keeps the GIL
(CVE-2024-6232): 16 KiB of digits took 0.5 s, 60 KiB 6.5 s."""
_MAX_HEADERS_BYTES = 2**21
"""Most bytes of the headers of all members, so at most 4,096 members; ours have about 20 kB."""
_END_BYTES = 1024
"""Zero bytes at the end of a tar (POSIX.1-1988)."""
_MAX_DEPTH = 32
"""Most folders in a name. `shutil.rmtree` is recursive: at a depth of about a thousand it fails and removes nothing."""
_SHOWN_CHARACTERS = 80
_MAX_XZ_MEMORY_BYTES = 128 * 2**20
"""Most memory that xz may use; a file of `xz -9` needs 65 MiB."""
_XZ = b"\xfd7zXZ\0"


def unpack(bento_path: Path, folder: Path) -> Path:
    """Extract a `.bento` archive into `folder`, which is emptied before; return the absolute path of `folder`.

    Raises:
        ArtifactError: the archive is missing or is no Bento.
    """
    _extract(bento_path, folder, PurePosixPath(), MAX_UNPACKED_BYTES)
    if not (folder / "bento.yaml").is_file():
        raise ArtifactError(f"{bento_path} is not a Bento (it has no bento.yaml); run the package step again")
    return folder.resolve()


def unpack_model(bento_path: Path, folder: Path, *, sha256: str = "", max_bytes: int = MAX_UNPACKED_BYTES) -> Path:
    """Extract only the files of `src/model` into `folder`, which is emptied before; return its absolute path.

    Safe for archives from other places: nothing is written outside `folder`, no link is made or followed, and the use
    of disk and memory is bounded, whatever sizes the archive states.

    Args:
        bento_path: the archive.
        folder: where to extract.
        sha256: sha256 (hex) of the archive as it was registered; empty if it is not known.
        max_bytes: most bytes of a tar that is compressed; another one is as large as its file.

    Raises:
        ArtifactError: the archive is missing, another one than `sha256` says, no Bento, unpacks to more than
            `max_bytes`, or holds a link, a device, a sparse file, headers of more than 16 KiB or 2 MiB in all, or a
            name that is too long, too deep or leads out of it.
    """
    if sha256 and bento_path.is_file() and (found := sha256_file(bento_path)) != sha256:
        raise ArtifactError(
            f"{bento_path} has the sha256 {found}, not {sha256} as it was registered; package the model again"
        )
    _extract(bento_path, folder, MODEL, max_bytes)
    if not any(folder.iterdir()):
        raise ArtifactError(f"{bento_path} is not a Bento (it has no {MODEL}); run the package step again")
    return folder.resolve()


@contextmanager
def unpacked_model(bento_path: Path) -> Iterator[Path]:
    """Extract the files of `src/model` into a temporary folder for the time of the block, and yield its path; an
    `ArtifactError` of the block names the archive in its place.

    Raises:
        ArtifactError: as in `unpack_model`.
    """
    with tempfile.TemporaryDirectory(prefix="gapgate-model-") as work:
        folder = unpack_model(bento_path, Path(work, "model"))
        try:
            yield folder
        except ArtifactError as error:
            raise ArtifactError(str(error).replace(f"{folder}/", f"{bento_path}: ")) from None


def _extract(bento_path: Path, folder: Path, wanted: PurePosixPath, max_bytes: int) -> None:
    """Extract the members below `wanted` into `folder`, which is emptied before."""
    with storage_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with _named_errors(bento_path), tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            plain = _plain(bento_path, Path(scratch, "plain.tar"), max_bytes)
            with _SmallReads(plain) as file, tarfile.open(fileobj=file, mode="r:") as archive:
                headers_bytes = 0
                for member in archive:
                    headers_bytes += member.offset_data - member.offset
                    if headers_bytes > _MAX_HEADERS_BYTES:
                        raise ArtifactError(f"{bento_path} holds more than {_MAX_HEADERS_BYTES:,} bytes of headers")
                    name = _safe_name(archive, member)
                    if member.isreg() and name.is_relative_to(wanted):
                        _write(archive, member, folder / name.relative_to(wanted))
                # To tarfile a file that is cut within a header ends well.
                # `seek` to the end gives the length, which may be less than that of the zeros.
                file.seek(-min(_END_BYTES, file.seek(0, io.SEEK_END)), io.SEEK_END)
                if file.read(_END_BYTES) != bytes(_END_BYTES):
                    raise EOFError("it ends too early")


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    # By hand: `TarFile.extract` has no filter before Python 3.11.4, and none keeps an earlier member of the same name.
    source = archive.extractfile(member)
    assert source is not None  # it is a regular file
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            shutil.copyfileobj(source, file, _MAX_READ_BYTES)
        # Of the mode only this bit: an archive from elsewhere must not set setuid, or let others write.
        if member.mode & 0o100:
            target.chmod(0o755)
    except (FileExistsError, IsADirectoryError, NotADirectoryError):
        raise ArtifactError(f"the archive holds {_shown(member)} twice; run the package step again") from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise ArtifactError(f"the archive holds a name of {len(member.name):,} characters; do not trust it") from None


class _SmallReads(io.FileIO):
    """A file that gives at most `_MAX_READ_BYTES` at once: `tarfile` holds a header in memory whole, whatever its
    size."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MAX_READ_BYTES:
            raise tarfile.ReadError(f"it holds a header of more than {_MAX_READ_BYTES:,} bytes")
        return super().read(size)


def _plain(bento_path: Path, target: Path, max_bytes: int) -> Path:
    """Return the path of the archive as a plain tar: itself, or `target` if it is compressed.

    Raises:
        ArtifactError: it has more than `max_bytes` bytes.
    """
    with bento_path.open("rb") as file:
        if file.read(len(_XZ)) != _XZ:
            return bento_path
        file.seek(0)
        with target.open("wb") as plain:
            for data in _decompressed(file):
                plain.write(data)
                if plain.tell() > max_bytes:
                    raise ArtifactError(f"{bento_path} unpacks to more than the limit of {max_bytes:,} bytes")
    return target


def _decompressed(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the content of an xz file of one stream; `lzma.open` has no limit on memory, and takes several."""
    xz = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_XZ_MEMORY_BYTES)
    while not xz.eof:
        compressed = file.read(_CHUNK_BYTES) if xz.needs_input else b""
        if xz.needs_input and not compressed:
            raise EOFError("it ends too early")
        # A piece at a time: 100 MB of zeros are 15 kB in xz.
        yield xz.decompress(compressed, _CHUNK_BYTES)
    if xz.unused_data or file.read(1):  # no check of xz covers it
        raise lzma.LZMAError("something follows its end")


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
