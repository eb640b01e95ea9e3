"""Artifacts, which pass between steps: a directory whose `manifest.json` is written last.

A directory without a manifest is incomplete and refused. The manifest names the kind, the sha256 of each file, the
digests of the inputs and the settings of the step; the sha256 over these is the artifact's own digest, so the lineage
of anything built from it is a chain of digests that anyone can check. The code revision, the image and the time are
recorded beside it and are no part of the digest: the same content made twice has the same digest.

A folder of many files (`tree`) is listed in `<tree>.sha256`, in the format of `sha256sum`, and only that list stands in
the manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

import gapgate
from gapgate.errors import ArtifactError
from gapgate.files import whole_file, whole_folder

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
LINEAGE = "lineage.json"
"""File of an artifact with the lineage of its inputs, for a later step that does not read these itself."""
RUN_VARIABLE = "GAPGATE_RUN"
"""Environment variable with the name of the pipeline run."""


class Manifest(BaseModel):
    """The content of `manifest.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    schema_version: int
    step: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    """Name of each input → its digest."""
    files: dict[str, str]
    """Relative path → sha256 (hex)."""
    trees: tuple[str, ...] = ()
    """Folders whose files are listed in `<tree>.sha256`."""
    digest: str
    """`sha256:<hex>` over all the fields above."""
    code_revision: str
    image_digest: str = ""
    run: str = ""
    """Name of the pipeline run that made it."""
    created_at: str


_NO_DEFAULT = object()
_DIGESTED = {"kind", "schema_version", "step", "settings", "inputs", "files", "trees"}
"""Fields of a manifest that go into its digest."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A complete, verified artifact."""

    path: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def read_json(self, name: str) -> Any:
        """The parsed JSON file `name` of this artifact."""
        return read_json(self.path / name)


@contextmanager
def create(
    out_dir: Path,
    *,
    kind: str,
    step: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Artifact],
    trees: tuple[str, ...] = (),
) -> Iterator[Path]:
    """Write an artifact: yields an empty folder beside `out_dir`, which gets its manifest and the name `out_dir` when
    the block ends without an error, replacing what was there. After an error nothing is left.

    Raises:
        StorageError: the disk is full or the place may not be written.
    """
    with whole_folder(out_dir) as folder:
        yield folder
        for tree in trees:
            _list_tree(folder, tree)
        content = {
            "kind": kind,
            "schema_version": SCHEMA_VERSION,
            "step": step,
            "settings": dict(settings),
            "inputs": {name: artifact.digest for name, artifact in sorted(inputs.items())},
            "files": {name: sha256_file(folder / name) for name in _files_outside(folder, trees)},
            "trees": list(trees),
        }
        manifest = Manifest(
            **content,
            digest=digest_of(content),
            code_revision=code_revision(),
            image_digest=os.environ.get("GAPGATE_IMAGE_DIGEST", ""),
            run=os.environ.get(RUN_VARIABLE, ""),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        # The last file: a process that is killed before this line leaves a folder that `load` refuses.
        write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")


def load(path: Path, kind: str, *, verify_trees: bool = False) -> Artifact:
    """Open an artifact after checking its kind, its digest and the sha256 of its files (with `verify_trees`, those of
    its trees too).

    Raises:
        ArtifactError: no manifest, another kind or schema version, or a file that is missing or was changed.
    """
    manifest = read_manifest(path)
    if manifest.kind != kind:
        raise ArtifactError(f"{path} is a {manifest.kind} where a {kind} is needed")
    if manifest.schema_version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has schema version {manifest.schema_version}, this is {SCHEMA_VERSION}; run the step again"
        )
    # First the manifest itself: its sha256 values are worth no more than it is.
    if digest_of(manifest.model_dump(mode="json", include=_DIGESTED)) != manifest.digest:
        raise ArtifactError(f"{path / MANIFEST} was changed since it was written; run the step again")
    _check_files(path, manifest.files.items())
    if verify_trees:
        for tree in manifest.trees:
            _check_files(path, _read_tree(path, tree))
    return Artifact(path, manifest)


def read_manifest(path: Path) -> Manifest:
    """The manifest of the artifact at `path`; the files are not checked against it.

    Raises:
        ArtifactError: there is no manifest, or the file is not one.
    """
    try:
        return Manifest.model_validate_json((path / MANIFEST).read_text())
    except FileNotFoundError:
        raise ArtifactError(
            f"{path} has no {MANIFEST}: incomplete or no artifact; run the step that makes it"
        ) from None
    except ValidationError as error:
        raise ArtifactError(
            f"{path / MANIFEST} is not a manifest ({error.errors()[0]['msg']}); run the step again"
        ) from None


def lineage(given: Mapping[str, Artifact]) -> dict[str, dict[str, Any]]:
    """Lineage of `given`: kind → digest and digested part of the manifest, for these artifacts and all behind them. It
    holds no time and no revision, so equal content has an equal lineage.

    Raises:
        ArtifactError: the lineage is not one whole chain, see `check_lineage`.
    """
    entries: dict[str, dict[str, Any]] = {}
    for artifact in given.values():
        if (artifact.path / LINEAGE).exists():
            entries |= artifact.read_json(LINEAGE)
    for artifact in given.values():
        entries[artifact.manifest.kind] = artifact.manifest.model_dump(mode="json", include=_DIGESTED | {"digest"})
    check_lineage(entries)
    return entries


def check_lineage(entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that a lineage is one whole chain of digests.

    Raises:
        ArtifactError: an entry was changed, or one of its inputs is missing or another than the entry of that kind.
    """
    for kind, entry in entries.items():
        if digest_of({name: value for name, value in entry.items() if name != "digest"}) != entry["digest"]:
            raise ArtifactError(f"the lineage of the {kind} was changed since it was written; run the step again")
        for name, found in entry["inputs"].items():
            if name not in entries:
                raise ArtifactError(
                    f"the {kind} is of the {name} {found}, whose lineage is missing; run the pipeline again"
                )
            if entries[name]["digest"] != found:
                given = entries[name]["digest"]
                raise ArtifactError(f"the {kind} is of the {name} {found}, not of {given}; run {entry['step']} again")


def digest_of(content: Any) -> str:
    """`sha256:<hex>` of content that JSON can hold, independent of the order of keys."""
    # One text for equal content, byte by byte. NaN is not JSON, and other readers could not check its digest.
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file that appears under its name only when whole."""
    with whole_file(path, fsync=True) as partial:
        partial.write_text(text)


def write_json(path: Path, content: Any) -> None:
    """Write JSON with sorted keys, so that equal content is equal bytes."""
    write_text(path, json_text(content))


def json_text(content: Any) -> str:
    """The text that `write_json` writes."""
    return json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path, default: Any = _NO_DEFAULT) -> Any:
    """The parsed content of a JSON file; `default`, where one is given, when there is no such file.

    Raises:
        ArtifactError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        if default is _NO_DEFAULT:
            raise
        return default
    except ValueError as error:
        raise ArtifactError(f"{path} is not JSON ({error}); run the step that makes it again") from None


@cache
def code_revision() -> str:
    """Revision of this code: `GAPGATE_CODE_REVISION`, git's (`+dirty` when tracked files differ), or the version."""
    if revision := os.environ.get("GAPGATE_CODE_REVISION"):
        return revision
    root = Path(gapgate.__file__).parent.parent
    # An installed copy may lie inside another project's repository, whose revision is not this code's.
    if not (root / ".git").exists():
        return f"gapgate {gapgate.__version__}"
    git = ["git", "-C", str(root)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode != 0:
        return f"gapgate {gapgate.__version__}"
    # Data and results beside the code are untracked, and do not make it another code.
    status = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True)
    return head.stdout.strip() + ("+dirty" if status.stdout.strip() else "")


def _files_outside(root: Path, trees: tuple[str, ...]) -> list[str]:
    names = (str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    return sorted(name for name in names if name.split("/", 1)[0] not in trees)


def _list_tree(root: Path, tree: str) -> None:
    """Write `<tree>.sha256`, one line a file, sorted within each folder; it needs memory for one folder's names."""
    with (root / f"{tree}.sha256").open("w") as listing:
        for folder, subfolders, names in os.walk(root / tree):
            subfolders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                listing.write(f"{sha256_file(path)}  {path.relative_to(root)}\n")


def _read_tree(root: Path, tree: str) -> Iterator[tuple[str, str]]:
    with (root / f"{tree}.sha256").open() as listing:
        for line in listing:
            # Split once: a file name may hold two spaces. `stage` refuses names with line breaks.
            sha256, name = line.rstrip("\n").split("  ", 1)
            yield name, sha256


def _check_files(root: Path, files: Any) -> None:
    for name, sha256 in files:
        try:
            found = sha256_file(root / name)
        except FileNotFoundError:
            raise ArtifactError(f"{root / name} is missing; run the step that makes it again") from None
        if found != sha256:
            raise ArtifactError(f"{root / name} was changed since it was written; run the step that makes it again")
