"""Bentos that runs on this machine have packaged."""

from __future__ import annotations

from pathlib import Path

from gapgate.errors import RegistryError

_BENTO = "artifacts/*/package/bento/model.bento"


def champion_bento(name: str) -> Path:
    """The Bento of a model's champion, as its run packaged it.

    Raises:
        RegistryError: there is no champion, or its Bento is not on this machine.
    """
    from components.platform.mlflow_registry import Registry
    from components.platform.run_context import RunContext
    from components.platform.workspace import has_store

    champion = Registry().champion(name) if has_store() else None  # a look would make an empty store
    if champion is None:
        raise RegistryError(f"{name} has no champion; `gapgate run` makes one when the gate passes")
    folder = RunContext(champion.tags.get("gapgate.run", "")).folder
    if found := next(folder.glob(_BENTO), None):
        return found
    raise RegistryError(f"the Bento of {name} version {champion.version} is not in {folder}; name a .bento file")


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
