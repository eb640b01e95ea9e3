"""The MLflow model registry: versions, the aliases `champion` and `challenger`, and moving them."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from components.platform.mlflow_runs import away_errors, client
from components.platform.workspace import home
from gapgate.artifacts import read_json
from gapgate.errors import GateError, RegistryError, TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

MODEL_FILE = "model.onnx"
ANSWERS_FILE = "evaluation/predictions.parquet"
"""File among a run's artifacts with the answers that its evaluation gave."""
"""Name that `mlflow.onnx` gives to the model."""
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
        return self.tags.get("gapgate.receipt", "")


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
        with away_errors():
            return [model.name for model in self._client.search_registered_models()]

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

    def of_run(self, name: str, run_id: str, model_digest: str) -> Version | None:
        """The version that an earlier try of the same run made of the same model; None where there is none."""
        with away_errors():
            found = self._client.search_model_versions(f"name='{name}' and run_id='{run_id}'")
        rows = [_version(item, []) for item in found]
        return next((row for row in rows if row.tags.get("gapgate.model") == model_digest), None)

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
            return read_json(_download(f"runs:/{version.run_id}/receipt", "receipt.json", Path(folder), version))

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

        def make() -> Version:
            source = f"models:/{model_id}"
            made = self._client.create_model_version(name, source, run_id, tags=dict(tags), model_id=model_id)
            return _version(made, [])

        with away_errors():
            # With users of its own, MLflow refuses a version of a name that is not there.
            with _passed_over(_ABSENT, "PERMISSION_DENIED"):
                return make()
            # Two runs may make the name at once; either of them is enough.
            with _passed_over("RESOURCE_ALREADY_EXISTS"):
                self._client.create_registered_model(name)
            return make()

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Add tags to a version."""
        with away_errors():
            for key, value in tags.items():
                self._client.set_model_version_tag(version.name, version.version, key, value)

    def challenge(self, version: Version) -> None:
        """Make a version the challenger."""
        with away_errors():
            self._client.set_registered_model_alias(version.name, CHALLENGER, version.version)

    def promote(self, version: Version, *, ends_challenge: bool = False) -> str | None:
        """Make a version the champion, and tag it with the number of the champion before it, which is returned; None
        for none. With `ends_challenge` no version is challenger any more.

        Raises:
            GateError: its certificate did not pass.
        """
        if version.verdict != "pass":
            raise GateError(
                f"{version.name} version {version.version} has the verdict {version.verdict}; "
                "only a passed certificate makes a champion"
            )
        aliases = self._aliases(version.name) or {}  # `version` may be older than the newest change of an alias
        previous = aliases.get(CHAMPION)
        with away_errors():
            # The tag before the alias: a failure in between leaves the old champion in its place.
            if previous not in (None, version.version):
                self._client.set_model_version_tag(version.name, version.version, PREVIOUS, previous)
            self._client.set_registered_model_alias(version.name, CHAMPION, version.version)
            if CHALLENGER in aliases and (ends_challenge or aliases[CHALLENGER] == version.version):
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
        """Download a version's ONNX file into `folder` and return its path.

        Raises:
            RegistryError: the artifact store does not have it.
        """
        remedy = "or make another version the champion: `gapgate promote VERSION`"
        return _download(f"models:/{version.name}/{version.version}", MODEL_FILE, folder, version, remedy)

    def answers_file(self, version: Version, folder: Path) -> Path | None:
        """Download the answers that a version's evaluation gave into `folder`; None where its run does not have them,
        as runs of versions before 0.3."""
        if not self._has(version.run_id, [ANSWERS_FILE]):
            return None
        place, _, name = ANSWERS_FILE.rpartition("/")
        return _download(f"runs:/{version.run_id}/{place}", name, folder, version)


@contextmanager
def promotion_lock(name: str) -> Iterator[None]:
    """Lock on a model's champion, for the processes of this machine. Hold it from the comparison to the change of the
    alias, so that of two runs that end at once the second is compared with the first."""
    home().mkdir(parents=True, exist_ok=True)
    with FileLock(home() / f"promote-{name}.lock"):
        yield


def _download(uri: str, name: str, folder: Path, version: Version, remedy: str = "") -> Path:
    """Download the file `name` at a URI of MLflow into `folder`.

    Raises:
        RegistryError: the artifact store does not have it.
    """
    import mlflow

    try:
        with away_errors():
            # The file alone: for a folder MLflow makes a request for each file in it.
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=f"{uri}/{name}", dst_path=str(folder)))
    except TrackingError:
        # Of a file that is not there, each kind of store says something else; a list tells.
        with away_errors():
            listed = mlflow.artifacts.list_artifacts(artifact_uri=uri) or []
        if any(Path(file.path).name == name for file in listed):
            raise
    raise RegistryError(
        f"{version.name} version {version.version} has no {name} in the artifact store; bring its files back"
        + (remedy and f", {remedy}")
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
