"""Bentos that runs on this machine have packaged, or that are fetched from the registry."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from components.platform.workspace import bentos_dir
from gapgate.errors import ArtifactError, GateError, RegistryError
from gapgate.evidence.sealed.package import Stated, opened
from gapgate.files import whole_file
from serving.model.registry import ModelUri

if TYPE_CHECKING:
    from components.platform.registry.mlflow_registry import Registry, Version

_BENTO = "artifacts/*/package/bento/model.bento"
_CHAMPION = "champion"


def champion_bento(name: str) -> Path:
    """The Bento of a model's champion, verified: as its run packaged it on this machine, else as the registry has it.

    Raises:
        RegistryError: there is no champion, or it has no Bento.
        ArtifactError, GateError: the Bento is damaged, that of another version, or of a model that did not pass.
    """
    return bento_of(ModelUri(name, _CHAMPION, ""))


def bento_of(uri: ModelUri) -> Path:
    """`champion_bento` of any version or alias.

    Raises:
        RegistryError: there is no such version, or it has no Bento.
        ArtifactError, GateError: as `champion_bento`.
    """
    from components.platform.registry.mlflow_registry import Registry
    from components.platform.run_context import RunContext
    from components.platform.workspace import has_store

    registry = Registry() if has_store() else None  # a look would make an empty store
    version = _version(registry, uri) if registry else None
    if registry is None or version is None:
        if uri.alias == _CHAMPION:
            raise RegistryError(f"{uri.name} has no champion; `gapgate run` makes one when the gate passes")
        wanted = f"alias {uri.alias}" if uri.alias else f"version {uri.version}"
        raise RegistryError(f"{uri.name} has no {wanted}; `gapgate models` lists what there is")
    stated = registry.stated(version)
    # The tag may lead to the run of another version; then that Bento does not hold.
    found = next(RunContext(version.tags.get("gapgate.run", "")).folder.glob(_BENTO), None)
    if found and _holds(found, stated):
        return found
    return _fetched(registry, version, stated)


def _version(registry: Registry, uri: ModelUri) -> Version | None:
    if uri.alias == _CHAMPION:
        return registry.champion(uri.name)
    if uri.version:
        return registry.find(uri.name, uri.version)
    return next((each for each in registry.versions(uri.name) if uri.alias in each.aliases), None)


def _holds(archive: Path, stated: Stated) -> bool:
    with tempfile.TemporaryDirectory(prefix="gapgate-bento-") as folder, suppress(ArtifactError, GateError):
        opened(archive, Path(folder, "model"), stated)
        return True
    return False


def _fetched(registry: Registry, version: Version, stated: Stated) -> Path:
    """The Bento of a version from the artifact store; kept in the workspace for the next call."""
    kept = bentos_dir() / f"{stated.package.removeprefix('sha256:')}.bento"
    if kept.exists() and _holds(kept, stated):
        return kept
    bentos_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gapgate-bento-") as folder:
        archive = registry.bento(version, Path(folder))
        opened(archive, Path(folder, "model"), stated)
        with whole_file(kept) as partial:
            shutil.copyfile(archive, partial)
    return kept


def newest_bento() -> Path:
    """The newest Bento on this machine, of any model.

    Raises:
        RegistryError: there is none.
    """
    from components.platform.workspace import runs_dir

    found = max(runs_dir().glob(f"*/{_BENTO}"), key=lambda path: path.stat().st_mtime_ns, default=None)
    if found is None:
        raise RegistryError(
            f"no Bento in {runs_dir()} could serve it; `gapgate run` makes one, or name a .bento file too"
        )
    return found
