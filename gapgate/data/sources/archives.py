"""Unpacking of ZIP archives, which may come from anywhere: nothing is written outside of one folder, and what would
fill the disk is refused before it is unpacked."""

from __future__ import annotations

import errno
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from gapgate.errors import DataError, StorageError
from gapgate.hidden import is_hidden

MAX_RATIO = 200
"""Largest ratio of an archive's content to its size; deflate makes at most 1,032 of one byte, photos about 1."""
RATIO_FROM_BYTES = 100_000_000
"""Content up to which any ratio is allowed: a drawing or an array of zeros may well shrink to a thousandth."""
MAX_MEMBERS = 10_000_000


def unpack(path: Path, scratch: Path) -> Path:
    """Unpack an archive into a new folder in `scratch`, without hidden files, and return the folder.

    Raises:
        DataError: the file is damaged, encrypted or no archive, a member would lie outside of the folder or is a link,
            or its content is out of all proportion to its size.
        StorageError: the content does not fit on the disk.
    """
    target = scratch / "unpacked" / path.stem
    try:
        with opened(path, scratch, "damaged or no archive; pack it again as a plain ZIP file") as archive:
            for member, name in _members(archive, path):
                place = target / name
                place.parent.mkdir(parents=True, exist_ok=True)
                # "x": a second member of the same name must not replace the first.
                with archive.open(member) as packed, place.open("xb") as out:
                    shutil.copyfileobj(packed, out, 1 << 20)
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(f"{path} holds {Path(error.filename).name} twice; pack it again") from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise DataError(f"{path} holds a file whose name is too long; rename it and pack it again") from None
    if not target.exists():
        raise DataError(f"{path} holds no files; put the images in one folder for each class")
    return target


@contextmanager
def opened(path: Path, scratch: Path, what_if_damaged: str) -> Iterator[zipfile.ZipFile]:
    """Open an archive whose content fits into `scratch`, for the time of the block.

    Raises:
        DataError: it is refused, packed in a way that `zipfile` does not read, or `what_if_damaged`, which names the
            remedy too.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check(archive, path, scratch)
            yield archive
    # zipfile's answer to other compressions, such as Deflate64, which Windows takes for large files, and newer formats.
    except NotImplementedError as error:
        raise DataError(
            f"{path} is packed in a way that cannot be read ({error}); pack it again as a plain ZIP file"
        ) from None
    # The last one is for a name that is not the UTF-8 which its entry promises.
    except (zipfile.BadZipFile, zlib.error, EOFError, UnicodeDecodeError):
        raise DataError(f"{path} is {what_if_damaged}") from None


def _check(archive: zipfile.ZipFile, path: Path, scratch: Path) -> None:
    """Refuse an archive that needs a password, or whose content would be too much for the disk or for its size.

    `zipfile` never unpacks more of a member than its entry says, so these sums hold.

    Raises:
        DataError, StorageError: as `unpack`.
    """
    members = archive.infolist()
    # Bit 0 of the general purpose flag (PKWARE's APPNOTE, 4.4.4).
    if any(member.flag_bits & 1 for member in members):
        raise DataError(f"{path} needs a password; unpack it and name the folder")
    num_bytes = sum(member.file_size for member in members)
    if len(members) > MAX_MEMBERS or num_bytes > max(RATIO_FROM_BYTES, MAX_RATIO * path.stat().st_size):
        raise DataError(
            f"{path} has {path.stat().st_size:,} bytes and would unpack to {num_bytes:,} in {len(members):,} files, "
            f"more than {MAX_RATIO} times as much; unpack it yourself if you trust it, and name the folder"
        )
    if (free := shutil.disk_usage(scratch).free) < num_bytes:
        raise StorageError(
            f"{path} unpacks to {num_bytes / 1e9:.1f} GB and {scratch} has {free / 1e9:.1f} GB free; free space"
        )


def _members(archive: zipfile.ZipFile, path: Path) -> Iterator[tuple[zipfile.ZipInfo, str]]:
    """Yield each file of an archive that is not hidden, with its path in it."""
    for member in archive.infolist():
        name = member.filename.replace("\\", "/")  # as some programs on Windows write it
        parts = PurePosixPath(name).parts
        # The colon is that of a drive such as C:, or of an alternate stream of NTFS.
        if name.startswith("/") or ".." in parts or ":" in (parts[0] if parts else ""):
            raise DataError(f"{path} holds {member.filename!r}, which lies outside of it; unpack only what you trust")
        # Programs on Unix keep the file's mode in the upper 16 bits.
        if stat.S_ISLNK(member.external_attr >> 16):
            raise DataError(f"{path} holds the link {member.filename!r}; pack the file that it points to")
        if not member.is_dir() and not name.endswith("/") and parts and not any(map(is_hidden, parts)):
            yield member, name
