"""ingest: exactly one version of the data, by hash → a Dataset artifact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.facts import Facts
from components.platform import dvc_data
from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.settings.sections import DataSettings
from gapgate.tracking import Tracker


def run(settings: DataSettings, inputs: Mapping[str, Artifact], folder: Path, tracker: Tracker) -> Facts:
    """Write `files/` (the source's files, unchanged) and `dataset.json` (source, DVC hash, revision, dirty or not).

    Raises:
        DataError: the source, or the repository, revision or path, is not there or empty.
    """
    files = folder / "files"
    files.mkdir()
    facts = _ingest(settings, files)
    artifacts.write_json(folder / "dataset.json", facts)
    dirty = ", differs from data.dvc" if facts["dirty"] else ""
    return Facts(
        summary=f"{facts['source']}, DVC hash {facts['dvc_hash'][:12]}{dirty}",
        tags={f"data.{name}": str(value) for name, value in facts.items()},
    )


def _ingest(settings: DataSettings, files: Path) -> dict[str, Any]:
    """Stage the files and return the content of `dataset.json`; its hash is that of the staged files."""
    if settings.source:
        dvc_data.stage(settings.source, files, link=True)
        return {"source": settings.source, "dvc_hash": dvc_data.dvc_hash(files), "dirty": False, "revision": ""}
    # A revision, or a URL, is never read from the working copy, which may differ from it.
    if settings.revision or not Path(settings.repository).is_dir():
        found, commit = dvc_data.fetch(settings.repository, settings.revision, settings.path, files)
        source = f"{settings.repository}:{settings.path}"
        return {"source": source, "dvc_hash": found, "dirty": False, "revision": commit}
    root = Path(settings.repository)
    if not (root / settings.path).exists():
        # A fresh clone has data.dvc and no data/.
        dvc_data.restore(root, settings.path)
    dvc_data.stage(str(root / settings.path), files, link=True)
    # The staged files are hashed, not the workspace, where a file may be added between the two reads.
    pin, found = dvc_data.pin_of(root, settings.path), dvc_data.dvc_hash(files)
    return {
        "source": settings.path,
        "dvc_hash": found,
        "dirty": pin is None or pin.hash != found,
        "revision": "workspace",
    }
