"""ingest: exactly one version of the data, by hash → a Dataset artifact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.facts import Facts
from components.platform.data import dvc_data, dvc_hashes, dvc_workspace
from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.data.sources.classes import reading_of
from gapgate.settings.sections import DataSettings, Reading
from gapgate.text import printable
from gapgate.tracking import Tracker


def run(settings: DataSettings, inputs: Mapping[str, Artifact], folder: Path, tracker: Tracker) -> Facts:
    """Write `files/` (the source's files, unchanged), `dataset.json` (source, DVC hash, revision, dirty or not) and
    `reading.json` (the user's answers to what the files leave open, and the files that could not be taken).

    Raises:
        DataError: the source, or the repository, revision or path, is not there or empty, or the file of class names.
    """
    files = folder / "files"
    files.mkdir()
    reading = reading_of(settings)
    facts, left_out, notes = _ingest(settings, files, reading)
    artifacts.write_json(folder / "dataset.json", facts)
    artifacts.write_json(folder / "reading.json", {"reading": reading.model_dump(mode="json"), "left_out": left_out})
    dirty = ", differs from data.dvc" if facts["dirty"] else ""
    return Facts(
        summary=f"{printable(facts['source'])}, DVC hash {facts['dvc_hash'][:12]}{dirty}",
        notes=[*notes, *_notes(left_out)],
        tags={f"data.{name}": str(value) for name, value in facts.items() if value != ""},
    )


def _ingest(
    settings: DataSettings, files: Path, reading: Reading
) -> tuple[dict[str, Any], list[dict[str, str]], list[str]]:
    """Stage the files; return the content of `dataset.json`, whose hash is that of the staged files, name and reason of
    each file that could not be taken, and notes for the user."""
    if settings.source:
        left_out = dvc_data.stage(settings.source, files, link=True, reading=reading)
        found = dvc_hashes.dvc_hash(files)
        return {"source": settings.source, "dvc_hash": found, "dirty": False, "revision": ""}, left_out, []
    # A revision, or a URL, is never read from the working copy, which may differ from it.
    if settings.revision or not Path(settings.repository).is_dir():
        found, commit = dvc_data.fetch(settings.repository, settings.revision, settings.path, files)
        source = f"{settings.repository}:{settings.path}"
        return {"source": source, "dvc_hash": found, "dirty": False, "revision": commit}, [], []
    root = Path(settings.repository)
    if not (root / settings.path).exists():
        # A fresh clone has data.dvc and no data/.
        dvc_workspace.restore(root, settings.path)
    left_out = dvc_data.stage(str(root / settings.path), files, link=True, reading=reading)
    # The staged files are hashed, not the workspace, where a file may be added between the two reads.
    only = files / Path(settings.path).name
    is_single_file = only.is_file() and list(files.rglob("*")) == [only]  # which is pinned by its own hash
    status = dvc_workspace.compare(only if is_single_file else files, root, settings.path)
    facts = {"source": settings.path, "dvc_hash": status.hash, "dirty": status.is_dirty, "revision": "workspace"}
    return facts, left_out, _differences(status, settings.path)


def _differences(status: dvc_workspace.Status, path: str) -> list[str]:
    """A line for data that differ from their pin, as after a restore that was interrupted."""
    if (found := status.difference) is None:
        return []
    counts = f"files added: {len(found.added):,}, changed: {len(found.changed):,}, gone: {len(found.gone):,}"
    return [f"{path} differs from its pin: {counts}; `gapgate data status` lists them"]


def _notes(left_out: list[dict[str, str]]) -> list[str]:
    if not left_out:
        return []
    first = ", ".join(f"{printable(each['name'])} ({each['reason']})" for each in left_out[:3])
    return [f"{len(left_out):,} files are left out: {first}{', …' if len(left_out) > 3 else ''}"]
