"""The MLflow model registry: versions, their packages, the aliases `champion` and `challenger`, and moving them.

Only a package that was read and verified makes a champion: tags, which anyone with the database can edit, let none in.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.platform.registry.promotion_lock import Held, promotion_lock
from components.platform.tracking.mlflow_client import away_errors, client, without_retries
from gapgate.artifacts import read_json, sha256_file
from gapgate.errors import GateError, RegistryError, TrackingError
from gapgate.evidence.sealed.package import ARCHIVE_TAG, DIGEST_TAG, RUN_DIGEST_TAG, Passed, Stated, opened

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ANSWERS_FILE = "evaluation/predictions.parquet"
"""File among a run's artifacts with the answers that its evaluation gave."""
PACKAGE_FILE = "package/model.bento"
RECEIPT_FILE = "receipt/receipt.json"
RECEIPT_TAG = "gapgate.receipt"
_ABSENT = "RESOURCE_DOES_NOT_EXIST"
CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "gapgate.previous_champion"
"""Tag of a champion with the version that was champion before it; `rollback` goes back to that."""


@dataclass(frozen=True, slots=True)
class Version:
    """One registered version of a model."""

    name: str
    version: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    run_id: str

    @property
    def verdict(self) -> str:
        """The gate's verdict at registration: pass, fail or undecided; none for a version that others registered."""
        return self.tags.get("gapgate.verdict", "none")

    @property
    def receipt(self) -> str:
        """Digest of the receipt, `sha256:…`; empty until the registration is complete."""
        return self.tags.get(RECEIPT_TAG, "")

    @property
    def package(self) -> str:
        """Digest of the package, `sha256:…`; empty until there is one."""
        return self.tags.get(DIGEST_TAG, "")

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


class Registry:
    """The calls to a model registry that Gapgate needs; each may raise `TrackingError`."""

    def __init__(self) -> None:
        with away_errors():
            self._client: MlflowClient = client()

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, newest first; none when the model is unknown."""
        # From the model: versions that `search_model_versions` returns have no aliases of their own.
        if (named := self._aliases(name)) is None:
            return []
        aliases: dict[str, list[str]] = {}
        for alias, version in named.items():
            aliases.setdefault(version, []).append(alias)
        with away_errors():
            found = self._client.search_model_versions(f"name='{name}'")
        rows = [_version(item, aliases.get(str(item.version), [])) for item in found]
        # As numbers: as text version 10 would come before version 9.
        return sorted(rows, key=lambda row: int(row.version), reverse=True)

    def _aliases(self, name: str) -> dict[str, str] | None:
        """Alias → version of a model; None when the model is unknown."""
        with away_errors(), _passed_over(_ABSENT):
            return {alias: str(at) for alias, at in self._client.get_registered_model(name).aliases.items()}
        return None

    def names(self) -> list[str]:
        """Names of all registered models."""
        found: list[str] = []
        token = None
        with away_errors():
            # MLflow gives 100 models at a time, and `gapgate clean` removes the run of a champion that is not listed.
            while True:
                page = self._client.search_registered_models(page_token=token)
                found += [model.name for model in page]
                if not (token := page.token):
                    return found

    def champion(self, name: str) -> Version | None:
        """The version with the alias `champion`, which is served; None where there is none."""
        # For a model without this alias, MLflow's code is the second.
        with away_errors(), _passed_over(_ABSENT, "INVALID_PARAMETER_VALUE"):
            found = self._client.get_model_version_by_alias(name, CHAMPION)
            return _version(found, found.aliases or [CHAMPION])
        return None

    def find(self, name: str, version: str) -> Version:
        """The version `version` of the model `name`.

        Raises:
            RegistryError: there is none.
        """
        rows = self.versions(name)
        for row in rows:
            if row.version == version:
                return row
        known = ", ".join(row.version for row in rows) or "none"
        raise RegistryError(f"{name} has no version {version} (known: {known}); `gapgate models` lists them")

    def made_of(self, name: str, tags: Mapping[str, str]) -> Version | None:
        """The oldest version that has all of `tags` and whose MLflow run is still there; None: there is none."""
        wanted = "".join(f" and tags.`{key}` = '{value}'" for key, value in tags.items())
        with away_errors():
            found = self._client.search_model_versions(f"name='{name}'{wanted}")
        rows = sorted((_version(item, []) for item in found), key=lambda row: int(row.version))
        return next((row for row in rows if self._is_run(row.run_id)), None)

    def _is_run(self, run_id: str) -> bool:
        with away_errors(), _passed_over(_ABSENT):
            return bool(self._client.get_run(run_id).info.lifecycle_stage == "active")
        return False

    def with_receipt(self, prefix: str) -> list[Version]:
        """Versions of any model whose receipt's digest begins with `prefix` (hexadecimal)."""
        with away_errors():
            found = self._client.search_model_versions(f"tags.`gapgate.receipt` LIKE 'sha256:{prefix}%'")
        return [_version(item, []) for item in found]

    def receipt(self, version: Version) -> Any:
        """Content of a version's receipt, as its run keeps it.

        Raises:
            RegistryError: the artifact store does not have it.
        """
        with tempfile.TemporaryDirectory() as folder:
            return read_json(_download(version, RECEIPT_FILE, Path(folder)))

    def keep(self, version: Version, file: Path, tags: Mapping[str, str]) -> None:
        """Upload the receipt or the package of a version to its run, and only then add tags to the version."""
        place = next(each for each in (RECEIPT_FILE, PACKAGE_FILE) if each.endswith(f"/{file.name}"))
        with away_errors():
            self._client.log_artifact(version.run_id, str(file), place.partition("/")[0])
        self.tag(version, tags)

    def publish(self, version: Version, archive: Path, digest: str) -> None:
        """Give a version its package with the digest `digest`."""
        with away_errors():
            # For servers of versions before 0.3.
            self._client.set_tag(version.run_id, RUN_DIGEST_TAG, digest)
        # The digest last: with it the package counts as there.
        self.keep(version, archive, {ARCHIVE_TAG: sha256_file(archive), DIGEST_TAG: digest})

    def bento(self, version: Version, folder: Path) -> Path:
        """Download a version's Bento into `folder`; what is in it is not checked.

        Raises:
            RegistryError: the artifact store does not have it.
        """
        return _download(version, PACKAGE_FILE, folder)

    def stated(self, version: Version) -> Stated:
        """Claims that the package of a version has to prove.

        Raises:
            GateError: its verdict is not pass.
            RegistryError: it has no package.
        """
        if version.verdict != "pass":
            raise GateError(f"{version} has the verdict {version.verdict}; only a passed certificate makes a champion")
        digest = version.package
        if not digest:
            with away_errors(), _passed_over(_ABSENT):
                digest = self._client.get_run(version.run_id).data.tags.get(RUN_DIGEST_TAG, "")
        if not digest:
            raise RegistryError(f"{version} has no package; run its model again, or promote another version")
        return Stated(version.name, version.version, version.receipt, digest, version.tags.get(ARCHIVE_TAG, ""))

    def package(self, version: Version, folder: Path) -> Passed:
        """Download the package of a version into `folder`, and verify it.

        Raises:
            ArtifactError: it is damaged, or that of another version.
            GateError: its certificate, or the verdict that the registry has, is not pass.
            RegistryError: there is none.
        """
        stated = self.stated(version)
        return opened(self.bento(version, folder / "bento"), folder / "model", stated)

    def name(self, name: str, description: str = "") -> None:
        """Make a model without versions, unless there is one of this name."""
        # With users of its own, MLflow refuses to show a model that is not there.
        with away_errors(), _passed_over(_ABSENT, "PERMISSION_DENIED"):
            self._client.get_registered_model(name)
            return
        # Two runs may make the name at once; either of them is enough.
        with away_errors(), _passed_over("RESOURCE_ALREADY_EXISTS"):
            self._client.create_registered_model(name, description=description or None)

    def exclusive(self, name: str) -> AbstractContextManager[Held]:
        """The lock on the aliases and on new versions of the model `name`, which must be there."""
        return promotion_lock(self._client, name)

    def register(
        self, name: str, model_id: str, run_id: str, tags: Mapping[str, str], description: str = ""
    ) -> Version:
        """Make a version of a logged model; `name` must be there. `description` is Markdown."""
        # An answer that is lost would make a second one, if the request were repeated.
        with away_errors(), without_retries():
            source = f"models:/{model_id}"
            made = self._client.create_model_version(
                name, source, run_id, tags=dict(tags), description=description or None, model_id=model_id
            )
        return _version(made, [])

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Add tags to a version."""
        with away_errors():
            for key, value in tags.items():
                self._client.set_model_version_tag(version.name, version.version, key, value)

    def challenge(self, version: Version, held: Held) -> None:
        """Make a version the challenger, under the lock of its model."""
        held.check()
        with away_errors():
            self._client.set_registered_model_alias(version.name, CHALLENGER, version.version)

    def promote(self, passed: Passed, held: Held, *, ends_challenge: bool = False) -> str | None:
        """Make the version of a verified package the champion, under the lock of its model, and tag it with the number
        of the champion before it, which is returned; None for none. With `ends_challenge` no version is challenger any
        more."""
        name, version = passed.stated.name, passed.stated.version
        aliases = self._aliases(name) or {}
        previous = aliases.get(CHAMPION)
        held.check()
        with away_errors():
            # The tag before the alias: a failure in between leaves the old champion in its place.
            if previous not in (None, version):
                self._client.set_model_version_tag(name, version, PREVIOUS, previous)
            self._client.set_registered_model_alias(name, CHAMPION, version)
            if CHALLENGER in aliases and (ends_challenge or aliases[CHALLENGER] == version):
                self._client.delete_registered_model_alias(name, CHALLENGER)
        return previous

    def rollback(self, name: str) -> tuple[Version, Version]:
        """Give the alias back to the champion before this one; returns (from, to).

        Raises:
            RegistryError: there is no champion, or none before it, or another took its place meanwhile.
            ArtifactError, GateError: as in `package`, of the champion before.
        """
        current = self.champion(name)
        if current is None:
            raise RegistryError(f"{name} has no champion; `gapgate models` lists its versions")
        if not (previous := current.tags.get(PREVIOUS)):
            raise RegistryError(f"{name} version {current.version} is the first champion; promote another version")
        target = self.find(name, previous)
        with tempfile.TemporaryDirectory() as folder:
            # Outside the lock, since a download takes long: others wait for it.
            self.package(target, Path(folder))
        with self.exclusive(name) as held:
            now = (self._aliases(name) or {}).get(CHAMPION)
            if now != current.version:
                raise RegistryError(f"the champion of {name} has just changed to version {now}; look at it, and repeat")
            held.check()
            with away_errors():
                self._client.set_registered_model_alias(name, CHAMPION, target.version)
        return current, target

    def answers_file(self, passed: Passed, version: Version, folder: Path) -> Path | None:
        """Download the answers that a version's evaluation gave into `folder`; None where its run does not have them,
        as runs of versions before 0.3.

        Raises:
            ArtifactError: they are not those of the evaluation that its package names.
        """
        try:
            file = _download(version, ANSWERS_FILE, folder)
        except RegistryError:
            return None
        passed.check_file("evaluation", file.name, file)
        return file


def _download(version: Version, file: str, folder: Path) -> Path:
    """Download a file of a version's run into `folder`.

    Raises:
        RegistryError: the artifact store does not have it.
    """
    import mlflow

    place, _, name = f"runs:/{version.run_id}/{file}".rpartition("/")
    try:
        with away_errors():
            # The file alone: for a folder MLflow makes a request for each file in it.
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=f"{place}/{name}", dst_path=str(folder)))
    except TrackingError:
        # Of a file that is not there, each kind of store says something else; a list tells.
        with away_errors():
            listed = mlflow.artifacts.list_artifacts(artifact_uri=place) or []
        if any(Path(file.path).name == name for file in listed):
            raise
    raise RegistryError(
        f"{version} has no {name} in the artifact store; bring its files back, or make another version the champion: "
        "`gapgate promote VERSION`"
    )


def _version(item: ModelVersion, aliases: list[str]) -> Version:
    tags: dict[str, Any] = dict(item.tags)
    return Version(item.name, str(item.version), tuple(sorted(aliases)), tags, item.run_id or "")


@contextmanager
def _passed_over(*codes: str) -> Iterator[None]:
    """Context manager that ends its block silently at an error of MLflow with one of these codes."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in codes:
            raise
