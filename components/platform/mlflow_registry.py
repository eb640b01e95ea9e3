"""The MLflow model registry: versions, the aliases `champion` and `challenger`, and moving them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from components.platform.mlflow_runs import away_errors, client
from components.platform.workspace import home
from gapgate.errors import GateError, RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

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


class Registry:
    """The calls to a model registry that Gapgate needs; each may raise `TrackingError`."""

    def __init__(self) -> None:
        with away_errors():
            self._client: MlflowClient = client()

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, newest first; none when the model is unknown."""
        from mlflow.exceptions import MlflowException

        with away_errors():
            try:
                # From the model: versions that `search_model_versions` returns have no aliases of their own.
                aliases: dict[str, list[str]] = {}
                for alias, version in self._client.get_registered_model(name).aliases.items():
                    aliases.setdefault(str(version), []).append(alias)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return []
                raise
            found = self._client.search_model_versions(f"name='{name}'")
        rows = [_version(item, aliases.get(str(item.version), [])) for item in found]
        # As numbers: as text version 10 would come before version 9.
        return sorted(rows, key=lambda row: int(row.version), reverse=True)

    def names(self) -> list[str]:
        """Names of all registered models."""
        with away_errors():
            return [model.name for model in self._client.search_registered_models()]

    def champion(self, name: str) -> Version | None:
        """The version with the alias `champion`, which is served; None where there is none."""
        return next((row for row in self.versions(name) if CHAMPION in row.aliases), None)

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

    def of_run(self, name: str, run_id: str, model_digest: str) -> Version | None:
        """The version that an earlier try of the same run made of the same model; None where there is none."""
        rows = self.versions(name)
        return next(
            (row for row in rows if (row.run_id, row.tags.get("gapgate.model")) == (run_id, model_digest)), None
        )

    def completed(self, name: str, tags: Mapping[str, str], files: Collection[str]) -> Version | None:
        """The newest version that has `tags` and whose MLflow run has the artifacts `files` (paths); None: none has."""
        tagged = (row for row in self.versions(name) if row.tags.items() >= tags.items())
        return next((row for row in tagged if self._has(row.run_id, files)), None)

    def read(self, version: Version, file: str) -> dict[str, Any]:
        """The content of a JSON file among the artifacts of a version's MLflow run."""
        import mlflow

        with away_errors():
            content: dict[str, Any] = mlflow.artifacts.load_dict(f"runs:/{version.run_id}/{file}")
        return content

    def _has(self, run_id: str, files: Collection[str]) -> bool:
        """True if a run has the artifacts `files`."""
        from mlflow.exceptions import MlflowException

        folders = {file.rpartition("/")[0] for file in files}
        with away_errors():
            try:
                found = {item.path for folder in folders for item in self._client.list_artifacts(run_id, folder)}
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # the run was deleted for good
                    return False
                raise
        return found >= set(files)

    def register(self, name: str, model_id: str, run_id: str, tags: Mapping[str, str]) -> Version:
        """Make a version of a logged model; a new `name` is made first."""
        from mlflow.exceptions import MlflowException

        with away_errors():
            try:
                self._client.create_registered_model(name)
            except MlflowException as error:
                # Two runs may make the name at once; either of them is enough.
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            source = f"models:/{model_id}"
            made = self._client.create_model_version(name, source, run_id, tags=dict(tags), model_id=model_id)
        return _version(made, [])

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Add tags to a version."""
        with away_errors():
            for key, value in tags.items():
                self._client.set_model_version_tag(version.name, version.version, key, value)

    def challenge(self, version: Version) -> None:
        """Make a version the challenger."""
        with away_errors():
            self._client.set_registered_model_alias(version.name, CHALLENGER, version.version)

    def promote(self, version: Version) -> Version | None:
        """Make a version the champion; tag it with the champion before it, which is returned.

        Raises:
            GateError: its certificate did not pass.
        """
        if version.verdict != "pass":
            raise GateError(
                f"{version.name} version {version.version} has the verdict {version.verdict}; "
                "only a passed certificate makes a champion"
            )
        rows = self.versions(version.name)  # `version` may be older than the newest change of an alias
        previous = next((row for row in rows if CHAMPION in row.aliases), None)
        challenger = next((row for row in rows if CHALLENGER in row.aliases), None)
        with away_errors():
            # The tag before the alias: a failure in between leaves the old champion in its place.
            if previous and previous.version != version.version:
                self._client.set_model_version_tag(version.name, version.version, PREVIOUS, previous.version)
            self._client.set_registered_model_alias(version.name, CHAMPION, version.version)
            if challenger and challenger.version == version.version:
                self._client.delete_registered_model_alias(version.name, CHALLENGER)
        return previous

    def rollback(self, name: str) -> tuple[Version, Version]:
        """Give the alias back to the champion before this one; returns (from, to).

        Raises:
            RegistryError: there is no champion, or none before it.
        """
        current = self.champion(name)
        if current is None:
            raise RegistryError(f"{name} has no champion; `gapgate models` lists its versions")
        if not (previous := current.tags.get(PREVIOUS)):
            raise RegistryError(f"{name} version {current.version} is the first champion; promote another version")
        target = self.find(name, previous)
        with away_errors():
            self._client.set_registered_model_alias(name, CHAMPION, target.version)
        return current, target

    def model_file(self, version: Version, folder: Path) -> Path:
        """Download a version's model into `folder` and return the path of its ONNX file."""
        import mlflow

        with away_errors():
            uri = f"models:/{version.name}/{version.version}"
            path = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
        return next(path.rglob("*.onnx"))


@contextmanager
def promotion_lock(name: str) -> Iterator[None]:
    """Lock on a model's champion, for the processes of this machine. Hold it from the comparison to the change of the
    alias, so that of two runs that end at once the second is compared with the first."""
    home().mkdir(parents=True, exist_ok=True)
    with FileLock(home() / f"promote-{name}.lock"):
        yield


def _version(item: ModelVersion, aliases: list[str]) -> Version:
    tags: dict[str, Any] = dict(item.tags)
    return Version(item.name, str(item.version), tuple(sorted(aliases)), tags, item.run_id or "")
