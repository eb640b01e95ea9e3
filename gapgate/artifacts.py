"""Artifacts, which pass between steps: a directory whose `manifest.json` is written last.

A directory without a manifest is incomplete and refused. The manifest names the kind, the sha256 of each file, the
digests of the inputs and the settings of the step; the sha256 over these is the artifact's own digest, so the lineage
of anything built from it is a chain of digests that anyone can check. The code revision, the image, the run and the
time are no part of the digest: the same content made twice has the same digest. A second sha256, the record, is over
all fields, these too.

A folder of many files (`tree`) is listed in `<tree>.sha256`, in the format of `sha256sum`, and only that list stands in
the manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

import gapgate
from gapgate.errors import ArtifactError
from gapgate.files import whole_file, whole_folder
from gapgate.hidden import is_hidden

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
    record: str = ""
    """`sha256:<hex>` over all the fields above; empty in manifests that were written before there was one."""


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
        manifest = manifest.model_copy(update={"record": record_of(manifest)})
        # The last file: a process that is killed before this line leaves a folder that `load` refuses.
        write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")


def load(path: Path, kind: str, *, verify_trees: bool = False) -> Artifact:
    """Open an artifact after checking its kind, its digest and the sha256 of its files (with `verify_trees`, those of
    its trees too). Hidden files, and those that systems leave in folders, are nobody's input and may be added.

    Raises:
        ArtifactError: no manifest, another kind or schema version, or a file that is missing, was changed or added.
    """
    manifest = read_manifest(path)
    if manifest.kind != kind:
        raise ArtifactError(f"{path} is a {manifest.kind} where a {kind} is needed")
    if manifest.schema_version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has schema version {manifest.schema_version}, this is {SCHEMA_VERSION}; run the step again"
        )
    # Functions and no lists: a tree may have a million names, and is walked twice only where something was added.
    _check_files(path, manifest.files.items, partial(_files_outside, path, manifest.trees))
    for tree in manifest.trees if verify_trees else ():
        _check_files(path, partial(_read_tree, path, tree), partial(_entries_of_tree, path, tree))
    return Artifact(path, manifest)


def read_manifest(path: Path) -> Manifest:
    """The manifest of the artifact at `path`, checked against its own digest and record; the files are not checked
    against it.

    Raises:
        ArtifactError: there is no manifest, or the file is not one or was changed.
    """
    try:
        manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise ArtifactError(
            f"{path} has no {MANIFEST}: incomplete or no artifact; run the step that makes it"
        ) from None
    except ValidationError as error:
        raise ArtifactError(
            f"{path / MANIFEST} is not a manifest ({error.errors()[0]['msg']}); run the step again"
        ) from None
    is_whole = digest_of(manifest.model_dump(mode="json", include=_DIGESTED)) == manifest.digest
    if not is_whole or manifest.record not in ("", record_of(manifest)):
        raise ArtifactError(f"{path / MANIFEST} was changed since it was written; run the step again")
    return manifest


def record_of(manifest: Manifest) -> str:
    """`sha256:<hex>` over the digest and every other field of a manifest."""
    return digest_of(manifest.model_dump(mode="json", exclude={"record"}))


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
        # Last: these manifests were read and checked, a lineage file only says what others were.
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
    except (ValueError, RecursionError) as error:
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
    """Names of the files of an artifact, sorted, without its trees and its manifest."""
    names = [entry.name for entry in root.iterdir() if entry.name not in (*trees, MANIFEST)]
    own = [name for name in names if not (root / name).is_dir()]
    return sorted([*own, *(file for name in names if name not in own for file in _files_in(root, name))])


def _files_in(root: Path, folder: str) -> Iterator[str]:
    """Names, relative to `root`, of what is no folder below `folder`, sorted within each folder."""
    for parent, subfolders, names in os.walk(root / folder):
        # In place: `os.walk` goes down in the order that it finds here.
        subfolders.sort()
        for name in sorted(names):
            yield str(Path(parent, name).relative_to(root))


def _entries_of_tree(root: Path, tree: str) -> Iterator[str]:
    """Names of the files of a tree, and of empty folders, of which `create` leaves none: one would be a class."""
    yield from _files_in(root, tree)
    for parent, subfolders, names in os.walk(root / tree):
        if not subfolders and not names and Path(parent) != root / tree:
            yield str(Path(parent).relative_to(root))


def _list_tree(root: Path, tree: str) -> None:
    """Write `<tree>.sha256`, one line a file; it needs memory for one folder's names."""
    with (root / f"{tree}.sha256").open("w") as listing:
        for name in _files_in(root, tree):
            listing.write(f"{sha256_file(root / name)}  {name}\n")


def _read_tree(root: Path, tree: str) -> Iterator[tuple[str, str]]:
    with (root / f"{tree}.sha256").open() as listing:
        for line in listing:
            # Split once: a file name may hold two spaces. `stage` refuses names with line breaks.
            sha256, name = line.rstrip("\n").split("  ", 1)
            yield name, sha256


def _check_files(
    root: Path, listed: Callable[[], Iterable[tuple[str, str]]], found: Callable[[], Iterable[str]]
) -> None:
    """Check each listed file (name, sha256), and that nothing is `found` there beside them."""
    num_listed = 0
    for name, sha256 in listed():
        num_listed += not _is_hidden(name)
        try:
            is_same = sha256_file(root / name) == sha256
        except FileNotFoundError:
            raise ArtifactError(f"{root / name} is missing; run the step that makes it again") from None
        if not is_same:
            raise ArtifactError(f"{root / name} was changed since it was written; run the step that makes it again")
    # All that is listed is there, so the numbers differ only by what was added; names take memory only then.
    if sum(not _is_hidden(name) for name in found()) != num_listed:
        known = {name for name, _ in listed()}
        added = next(name for name in found() if name not in known and not _is_hidden(name))
        raise ArtifactError(f"{root / added} was added later; remove it, or run the step again")


def _is_hidden(name: str) -> bool:
    return any(map(is_hidden, name.split("/")))
