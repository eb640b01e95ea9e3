"""Proof inside a package that it was made for one registered version, and that the gate passed its model.

Tags of a registry can be edited by anyone with its database. A version is promoted, compared, served and asked by the
certificate inside its package, whose seal covers every byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gapgate.artifacts import LINEAGE, check_lineage, read_json, sha256_file
from gapgate.errors import ArtifactError, GateError
from gapgate.evidence.sealed import seal
from gapgate.evidence.sealed.archive import unpack_model
from gapgate.evidence.sealed.receipt import Receipt
from gapgate.evidence.sealed.receipt import verify as verify_receipt

DIGEST_TAG = "gapgate.package"
"""Tag of a model version with the digest of its package."""
ARCHIVE_TAG = "gapgate.archive"
"""Tag of a model version with the sha256 (hex) of the archive of its package; versions of before 0.3 have none."""
RUN_DIGEST_TAG = "package.digest"
"""Tag of an MLflow run with the digest of the package that it made; versions of before 0.3 have this one alone."""


@dataclass(frozen=True, slots=True)
class Stated:
    """Claims of a registry about the package of a version; nothing of it is believed before it is found inside."""

    name: str
    version: str
    receipt: str
    """Digest of the receipt, `sha256:…`."""
    package: str
    """Digest of the package, `sha256:…`."""
    archive: str
    """Sha256 (hex) of the archive; empty for a version of before 0.3."""

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


@dataclass(frozen=True, slots=True)
class Passed:
    """A verified package of a version that passed the gate; made by `opened` alone."""

    stated: Stated
    folder: Path
    receipt: Receipt

    def sha256_of(self, kind: str, file: str) -> str:
        """The sha256 (hex) of a file of the artifact `kind` among those that the model comes from; empty where the
        lineage has no such file."""
        lineage: dict[str, Any] = read_json(self.folder / LINEAGE)
        check_lineage(lineage)
        entry = lineage.get(kind, {})
        # Only the artifact that the receipt names counts, whatever else a lineage says of its kind.
        is_its_own = entry.get("digest") == self.receipt.artifacts.get(kind)
        return str(entry.get("files", {}).get(file, "")) if is_its_own else ""

    def check_file(self, kind: str, file: str, path: Path) -> None:
        """Check that `path` is the file `file` of the artifact `kind` that the model comes from.

        Raises:
            ArtifactError: it is another one.
        """
        if sha256_file(path) != self.sha256_of(kind, file):
            raise ArtifactError(
                f"{file} of {self.stated} in the artifact store is not the one of its {kind}; bring that file back"
            )


def opened(archive: Path, folder: Path, stated: Stated) -> Passed:
    """Unpack the package of a Bento into `folder`, and check every byte of it and what it was made for.

    Raises:
        ArtifactError: the archive is damaged or unsafe, or is not the package that was registered.
        GateError: the certificate in it does not pass.
    """
    try:
        unpack_model(archive, folder, sha256=stated.archive)
        found = seal.verify(folder)
    except ArtifactError as error:
        said = str(error).replace(f"{folder}/", "").replace(str(archive), archive.name)
        raise ArtifactError(f"the package of {stated} is damaged: {said}") from None
    if found != stated.package:
        raise ArtifactError(f"the package of {stated} is {found}, not {stated.package}; package the model again")
    return Passed(stated, folder, check(folder, stated))


def check(folder: Path, stated: Stated) -> Receipt:
    """Check that a package whose seal holds was made for a version and its certificate passes; returns the receipt.

    Raises:
        ArtifactError: the receipt is another one, or of another version.
        GateError: the certificate's verdict is not pass.
    """
    try:
        receipt = verify_receipt(read_json(folder / "receipt.json"), stated.receipt)
        verdict = read_json(folder / "certificate.json")["verdict"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(f"the package is not what was registered: {reason}; package the model again") from None
    if (receipt.model_name, receipt.model_version) != (stated.name, stated.version):
        made_for = f"{receipt.model_name} version {receipt.model_version}"
        raise ArtifactError(f"the package was made for {made_for}, not for {stated}; package the model again")
    if verdict != "pass":
        raise GateError(f"the certificate's verdict is {verdict}, not pass; promote another version")
    return receipt
