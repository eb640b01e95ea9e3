"""Opening a `.bento` archive, a tar in xz: whole, for BentoML, or only the model package inside it."""

from __future__ import annotations

import lzma
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from gapgate.errors import ArtifactError, storage_errors

MODEL = PurePosixPath("src/model")
"""Where the package lies inside a Bento."""
MAX_UNPACKED_BYTES = 8 * 2**30
_CHUNK_BYTES = 2**20


def unpack(bento_path: Path, folder: Path) -> Path:
    """Extract a `.bento` archive into `folder`, replacing what was there; returns its absolute path.

    Raises:
        ArtifactError: the archive is missing or is no Bento.
    """
    with _emptied(folder), _opened(bento_path) as archive:
        archive.extractall(folder, filter="data")
    if not (folder / "bento.yaml").is_file():
        raise ArtifactError(f"{bento_path} is not a Bento (it has no bento.yaml); run the package step again")
    return folder.resolve()


def unpack_model(bento_path: Path, folder: Path, *, max_bytes: int = MAX_UNPACKED_BYTES) -> Path:
    """Extract the files of `src/model` alone into `folder`, replacing what was there; returns its absolute path.

    For archives from elsewhere: nothing is written outside `folder`, and no member is followed, run or linked to.

    Raises:
        ArtifactError: the archive is missing, is no Bento, unpacks to more than `max_bytes`, or holds a link, a device
            or a name that leads out of it.
    """
    with _emptied(folder), _opened(bento_path) as archive:
        for member in archive:
            name = _safe_name(bento_path, member)
            if member.offset_data + member.size > max_bytes:
                raise ArtifactError(f"{bento_path} unpacks to more than the limit of {max_bytes:,} bytes")
            if member.isreg() and name.is_relative_to(MODEL):
                _extract(archive, member, folder / name.relative_to(MODEL))
    if not any(folder.iterdir()):
        raise ArtifactError(f"{bento_path} is not a Bento (it has no {MODEL}); run the package step again")
    return folder.resolve()


@contextmanager
def _emptied(folder: Path) -> Iterator[None]:
    with storage_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield


@contextmanager
def _opened(bento_path: Path) -> Iterator[tarfile.TarFile]:
    """The archive's reader. It is read to its end, where xz keeps its checks: any changed byte is an error."""
    try:
        with tarfile.open(bento_path, "r:xz") as archive:
            yield archive
            while archive.fileobj is not None and archive.fileobj.read(_CHUNK_BYTES):
                pass
    except FileNotFoundError:
        raise ArtifactError(f"{bento_path} is missing; run the package step") from None
    except IsADirectoryError:
        raise ArtifactError(f"{bento_path} is a folder; name the .bento file in it") from None
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise ArtifactError(f"{bento_path} is not a Bento ({error}); run the package step again") from None


def _safe_name(bento_path: Path, member: tarfile.TarInfo) -> PurePosixPath:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\0" in member.name:
        raise ArtifactError(f"{bento_path} holds the name {member.name!r}, which leads out of it; do not trust it")
    if not (member.isreg() or member.isdir()):
        raise ArtifactError(f"{bento_path} holds {member.name!r}, which is neither file nor folder; do not trust it")
    return name


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    source = archive.extractfile(member)
    if source is None:
        raise ArtifactError(f"{archive.name!r} has no content for {member.name!r}; run the package step again")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            shutil.copyfileobj(source, file, _CHUNK_BYTES)
    except (FileExistsError, NotADirectoryError):
        raise ArtifactError(f"the archive holds {member.name!r} twice; run the package step again") from None
