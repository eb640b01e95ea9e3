"""The seal of a package: `package.json` with the sha256 of every file, written last.

A package is the folder that a server reads, in a Bento or fetched from a registry. The digest of the seal covers the
whole content, so a file that was changed, removed or added is found before the model answers a request.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from gapgate.artifacts import digest_of, json_text, sha256_file, write_json
from gapgate.errors import ArtifactError

SEAL = "package.json"
SCHEMA_VERSION = 1
_REMEDY = "package the model again"


class Seal(BaseModel):
    """Content of `package.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int
    files: dict[str, str]
    """Relative path → sha256 (hex), for every file except `package.json` itself."""
    digest: str
    """Digest over the fields above, `sha256:<hex>`."""


def seal(folder: Path) -> str:
    """Write `package.json` for the files in `folder`, and return its digest."""
    # Written last: a package whose writing broke off has no seal, so no server takes it.
    made = _seal_of({name: sha256_file(folder / name) for name in _names(folder)})
    write_json(folder / SEAL, made.model_dump(mode="json"))
    return made.digest


def verify(folder: Path) -> str:
    """Check every byte of a package, and return its digest.

    Raises:
        ArtifactError: a file that is missing, changed or not part of the package; the message names the first.
    """
    path = folder / SEAL
    try:
        text = path.read_bytes().decode()
        stated = Seal.model_validate_json(text, strict=True)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing: incomplete or no package; {_REMEDY}") from None
    except (UnicodeDecodeError, ValidationError):
        raise ArtifactError(f"{path} is not the seal of a package; {_REMEDY}") from None
    if stated.schema_version != SCHEMA_VERSION:
        raise ArtifactError(f"{path} has schema version {stated.schema_version}, this is {SCHEMA_VERSION}; {_REMEDY}")
    # Compared as text: one changed space leaves the content as it was, and is a changed byte all the same.
    if stated != _seal_of(stated.files) or text != json_text(stated.model_dump(mode="json")):
        raise ArtifactError(f"{path} was changed since it was written; {_REMEDY}")
    found = set(_names(folder))
    for name in sorted(found | set(stated.files)):
        if name not in found:
            raise ArtifactError(f"{folder / name} is missing; {_REMEDY}")
        if name not in stated.files:
            raise ArtifactError(f"{folder / name} is not part of the package; remove it, or {_REMEDY}")
        if sha256_file(folder / name) != stated.files[name]:
            raise ArtifactError(f"{folder / name} was changed since it was packaged; {_REMEDY}")
    return stated.digest


def _seal_of(files: dict[str, str]) -> Seal:
    content = {"schema_version": SCHEMA_VERSION, "files": files}
    return Seal(schema_version=SCHEMA_VERSION, files=files, digest=digest_of(content))


def _names(folder: Path) -> list[str]:
    """List every file of the package except the seal, sorted."""
    # Not only regular files: a broken link or a pipe that was put in must count as a file too many.
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(name for name in names if name != SEAL)
