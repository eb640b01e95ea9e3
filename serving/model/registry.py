"""Model versions in an MLflow registry, and the packages of their runs: find, fetch and check them.

The step `package` adds `package/model.bento` to the run of a version and its digest to the version, and moves an alias
only after that. Where others move one, or a version before 0.3 has it, an alias can name a version without a package.
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gapgate.errors import ArtifactError, GateError, RegistryError, SettingsError, StorageError, TrackingError
from gapgate.evidence.sealed import seal
from gapgate.evidence.sealed.archive import unpack_model
from gapgate.evidence.sealed.package import ARCHIVE_TAG, DIGEST_TAG, RUN_DIGEST_TAG, Stated, check
from serving.model.mlflow_rest import MlflowRest
from serving.model.package_cache import PackageCache

ARCHIVE = "package/model.bento"
MAX_PACKAGE_BYTES = 2 * 2**30
_URI = re.compile(r"models:/(?P<name>[^/@:]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[1-9][0-9]*))")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ModelUri:
    """Address of a model: `models:/name@alias` or `models:/name/3`; either `alias` or `version` is empty."""

    name: str
    alias: str
    version: str

    @classmethod
    def parse(cls, text: str) -> ModelUri:
        """Parse an address.

        Raises:
            SettingsError: the text is no such address.
        """
        if (found := _URI.fullmatch(text)) is None:
            raise SettingsError(
                f"{text!r} names no registered model; write models:/NAME@ALIAS (models:/gapgate@champion) or "
                "models:/NAME/VERSION (models:/gapgate/3)"
            )
        return cls(found["name"], found["alias"] or "", found["version"] or "")

    def __str__(self) -> str:
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{self.version}"


@dataclass(frozen=True, slots=True)
class Resolved:
    """Data of the registry about one model version. A refusal stands for as long as they stay the same."""

    name: str
    version: str
    run_id: str
    verdict: str
    """The gate's verdict; empty if the version has none."""
    receipt: str
    """Digest of the receipt; empty until the registration of the version is complete."""
    package_digest: str
    """Digest of the package, `sha256:<hex>`; empty until the version is packaged."""
    package_bytes: int | None
    """Size of the archive; 0 if the artifact store does not give it, None if there is no archive."""
    archive_sha256: str = ""
    """Sha256 (hex) of the archive; empty for a version of before 0.3."""

    def is_package(self, other: Resolved | None) -> bool:
        """True if both are the same package of the same version with the same verdict and receipt."""
        # The run and the archive do not change what is served: the digest covers its content.
        said = [replace(each, run_id="", archive_sha256="", package_bytes=None) for each in (self, other) if each]
        return len(said) == 2 and said[0] == said[1]

    @property
    def awaited(self) -> str:
        """Text that names the missing part for which the version has to wait; empty if nothing is missing."""
        # A version that does not pass is never waited for: `_place` refuses it.
        if self.verdict != "pass" or (self.receipt and self.package_digest and self.package_bytes is not None):
            return ""
        if not self.receipt:
            return f"{self} is not registered completely yet: it has no tag gapgate.receipt"
        if not self.package_digest:
            return f"{self} is not packaged yet: it has no tag {DIGEST_TAG}"
        return f"{self} is not packaged yet: its run {self.run_id} has no artifact {ARCHIVE}"

    @property
    def stated(self) -> Stated:
        """Claims that the package has to prove."""
        return Stated(self.name, self.version, self.receipt, self.package_digest, self.archive_sha256)

    def __str__(self) -> str:
        return str(self.stated)


_RESOLVED = TypeAdapter(Resolved)


class MlflowRegistry:
    """A model in the registry of an MLflow server, with a cache of its packages in `cache_dir`, which processes may
    share."""

    def __init__(
        self,
        tracking_uri: str,
        uri: ModelUri,
        cache_dir: Path,
        *,
        timeout_s: float = 10.0,
        max_package_bytes: int = MAX_PACKAGE_BYTES,
        refresh_s: float = 60.0,
    ) -> None:
        """Ask the server for the run behind a version, which a new package changes, every `refresh_s` seconds; and at
        once where the version or its tags are others."""
        self._rest = MlflowRest(tracking_uri, timeout_s=timeout_s)
        self._max_package_bytes = max_package_bytes
        self._refresh_s = refresh_s
        self._known: tuple[dict[str, Any], Resolved, float] | None = None
        self._cache = PackageCache(cache_dir, self._rest.address, uri.name)
        self.uri = uri

    def resolve(self) -> Resolved:
        """Return the version that the address names now.

        Raises:
            RegistryError: there is no such model, alias or version.
            TrackingError: the server does not answer.
        """
        uri = self.uri
        if uri.alias:
            answer = self._rest.get("registered-models/alias", name=uri.name, alias=uri.alias)
        else:
            answer = self._rest.get("model-versions/get", name=uri.name, version=uri.version)
        try:
            found = answer["model_version"]
            # Behind a log-in each request costs MLflow a quarter of a second, for every process that follows. So the
            # data of the run from before stand while they are young and nothing was missing in them.
            if self._known and self._known[0] == found and time.monotonic() < self._known[2]:
                return self._known[1]
            resolved = self._resolved(found)
        except (KeyError, TypeError, AttributeError):
            raise TrackingError(
                f"{self._rest.address} does not answer as MLflow does; is it an MLflow server?"
            ) from None
        self._known = None if resolved.awaited else (found, resolved, time.monotonic() + self._refresh_s)
        return resolved

    def fetch(self, resolved: Resolved) -> Path:
        """Return the folder of a version's package, verified file by file; download it if the cache lacks it.

        The folder stays there until `keep` releases it.

        Raises:
            GateError: the version, or the certificate in its package, does not pass.
            ArtifactError: the archive is damaged, too large or unsafe, or not the package that was registered.
            RegistryError: the run has no package.
            StorageError: the disk is full.
            TrackingError: the server does not answer.
        """
        cache, folder = self._cache, self._place(resolved)
        # The lock is held during the download: processes that ask for the same package wait and then find it.
        with cache.locked():
            if not _is_whole(folder, resolved.package_digest):
                with cache.archive(resolved.archive_sha256) as archive, cache.replacing(folder) as fresh:
                    self._download(resolved, archive, fresh)
            check(folder, resolved.stated)
            cache.hold(folder)  # before `prune`, which removes what nobody holds
            cache.prune()
        return folder

    def cached(self, resolved: Resolved) -> Path | None:
        """Return the folder of a version's package at once; None if the cache has no undamaged one.

        It needs neither the server nor the lock, which another process may hold for a whole download.

        Raises:
            GateError, ArtifactError, StorageError: as in `fetch`.
        """
        cache, folder = self._cache, self._place(resolved)
        if not folder.is_dir():
            return None
        cache.hold(folder)
        if not _is_whole(folder, resolved.package_digest):
            return None
        check(folder, resolved.stated)
        # Checked last: without the lock, another process may have replaced the folder before it was held.
        return folder if cache.holds(folder) else None

    def keep(self, folders: list[Path]) -> None:
        """Release the packages that this process fetched, except `folders`."""
        self._cache.keep(folders)

    def follow(self, resolved: Resolved) -> None:
        """Store that the address led to a version that is served now, for a start while the registry is away."""
        self._cache.follow(str(self.uri), asdict(resolved))

    def followed(self) -> Resolved | None:
        """Return the version that `follow` stored last, in any process; None if there is none that fits the address."""
        try:
            found = _RESOLVED.validate_python(self._cache.followed(str(self.uri)))
        except ValidationError:
            return None
        return found if found.name == self.uri.name and self.uri.version in ("", found.version) else None

    def _resolved(self, found: dict[str, Any]) -> Resolved:
        """Collect the data of a version: its own tags, and the artifacts of its run."""
        run_id = str(found.get("run_id", ""))
        if not run_id:
            raise RegistryError(f"{found['name']} version {found['version']} is of no run; register it with gapgate")
        tags = _tags(found)
        if not (digest := tags.get(DIGEST_TAG, "")):
            # A version of before 0.3 has its digest as a tag of the run.
            run = self._rest.get("runs/get", run_id=run_id)["run"]
            digest = _tags(run["data"]).get(RUN_DIGEST_TAG, "")
        listed = self._rest.get("artifacts/list", run_id=run_id, path=ARCHIVE.rpartition("/")[0])
        sizes = {file["path"]: int(file.get("file_size", 0)) for file in listed.get("files", [])}
        return Resolved(
            name=str(found["name"]),
            version=str(found["version"]),
            run_id=run_id,
            verdict=tags.get("gapgate.verdict", ""),
            receipt=tags.get("gapgate.receipt", ""),
            package_digest=digest,
            archive_sha256=tags.get(ARCHIVE_TAG, ""),
            package_bytes=sizes.get(ARCHIVE),
        )

    def _place(self, resolved: Resolved) -> Path:
        """Return the folder for the package of a version that may be served.

        Raises:
            GateError, ArtifactError: the version does not pass, or its digest is none.
        """
        if resolved.verdict != "pass":
            raise GateError(f"the gate's verdict is {resolved.verdict or 'missing'}, not pass; promote another version")
        # Both become part of a path, and the registry is another machine.
        if not (resolved.version.isdecimal() and _DIGEST.fullmatch(resolved.package_digest)):
            raise ArtifactError(f"{resolved.package_digest!r} is no digest of a package; package the model again")
        return self._cache.folder(resolved.version, resolved.package_digest)

    def _download(self, resolved: Resolved, archive: Path, folder: Path) -> None:
        """Download `archive`, or what is missing of it, and unpack it into `folder`; raise if it is not the registered
        package."""
        what, has_digest = f"{ARCHIVE} of run {resolved.run_id}", bool(resolved.archive_sha256)
        is_resumed = has_digest and archive.exists()
        _check_room(archive, resolved.package_bytes or 0)
        got_bytes = self._rest.download(
            resolved.run_id, ARCHIVE, archive, max_bytes=self._max_package_bytes, has_digest=has_digest
        )
        # The run's artifact may be in the middle of an upload; the next poll tries again.
        if resolved.package_bytes and got_bytes != resolved.package_bytes:
            archive.unlink()
            raise TrackingError(f"{what} is still growing; it is tried again")
        try:
            unpack_model(archive, folder, sha256=resolved.archive_sha256)
            digest = seal.verify(folder)
        except ArtifactError as error:
            if is_resumed:  # the part from before may be at fault: after a power cut a file can hold zeros
                archive.unlink()
                raise TrackingError(
                    f"{what} does not fit the part that was there already; it is downloaded again"
                ) from None
            said = str(error).replace(f"{archive.parent}/", "").replace(f"{folder.parent}/", "")  # they are no more
            raise ArtifactError(said) from None
        if digest != resolved.package_digest:
            raise ArtifactError(
                f"the package is {digest}, not {resolved.package_digest} as its run says; package it again"
            )


def _check_room(archive: Path, num_bytes: int) -> None:
    """Raise if the disk has no room for the rest of an archive of `num_bytes` and for what is unpacked from it.

    Else each poll would download until the disk is full.
    """
    needed = 2 * num_bytes - (archive.stat().st_size if archive.exists() else 0)
    if (free := shutil.disk_usage(archive.parent).free) < needed:
        raise StorageError(
            f"the package needs {needed / 1e9:.2f} GB in {archive.parents[2]}, which has {free / 1e9:.2f} GB free; "
            "free space or choose another GAPGATE_MODEL_CACHE"
        )


def _is_whole(folder: Path, digest: str) -> bool:
    try:
        return seal.verify(folder) == digest
    except (ArtifactError, OSError):
        return False


def _tags(item: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in item.get("tags", [])}
