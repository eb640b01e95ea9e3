"""Removal of old runs' artifacts; those of a champion are never removed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from components.platform.registry.mlflow_registry import CHAMPION, Registry
from components.platform.run_context import RunContext
from components.platform.workspace import bentos_dir, features_dir, runs_dir, trials_dir
from pipelines.local.resume import pending_runs


@dataclass(frozen=True, slots=True)
class OldRun:
    """A run whose artifacts can be removed; its log, result and receipt stay."""

    name: str
    artifacts: Path
    size_bytes: int


def old_runs(keep: int) -> list[OldRun]:
    """Runs with artifacts, oldest first, except the newest `keep`, those at work, those of any champion, and those of
    which `gapgate sync` still has to send or register something.

    The artifacts of trials, the features of pretrained networks and fetched Bentos come last, an entry each, unless
    some run is at work.

    Raises:
        TrackingError: the registry does not answer, so the champions are not known.
    """
    # A run's name begins with the time (UTC), so names sort by age.
    names = sorted((folder.parent.name for folder in runs_dir().glob("*/artifacts")), reverse=True)
    kept = champion_runs() | {context.name for context in pending_runs()}
    old = [name for name in names[keep:] if name not in kept and not RunContext(name).is_alive()]
    folders = [(name, runs_dir() / name / "artifacts") for name in reversed(old)]
    # A trial at work reads artifacts that another trial made; which ones is not recorded.
    shared = [folder for folder in (trials_dir(), features_dir(), bentos_dir()) if folder.exists()]
    if shared and not any(RunContext(folder.name).is_alive() for folder in runs_dir().glob("*")):
        folders += [(folder.name, folder) for folder in shared]
    return [OldRun(name, folder, size_of(folder)) for name, folder in folders]


def champion_runs() -> set[str]:
    """Names of the runs that made a champion of any model."""
    registry = Registry()
    versions = (row for name in registry.names() for row in registry.versions(name))
    return {row.tags.get("gapgate.run", "") for row in versions if CHAMPION in row.aliases}


def free(runs: list[OldRun]) -> None:
    """Remove the artifacts of these runs."""
    for run in runs:
        shutil.rmtree(run.artifacts)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
