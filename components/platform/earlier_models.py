"""Models of runs on this machine that were trained to the end, and whose runs did not come further."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from components.platform.run_context import RunContext
from components.platform.workspace import runs_dir
from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.errors import ArtifactError


def model_of_interrupted_run(settings: Mapping[str, Any], inputs: Mapping[str, Artifact]) -> Artifact | None:
    """The newest whole model that was trained with these settings and inputs by the same code, of a run that was killed
    or failed after its training; a run that ended well is repeated when its user repeats it."""
    wanted = {name: artifact.digest for name, artifact in inputs.items()}
    # A run's name begins with the time, so the newest comes first.
    for folder in sorted(runs_dir().glob("*/artifacts/*/train/model"), reverse=True):
        context = RunContext(folder.parents[3].name)
        with suppress(ArtifactError, OSError):
            ended = artifacts.read_json(context.folder / "result.json", {"failure": "none was written"})
            if ended["failure"] is None or context.is_alive():
                continue
            found = artifacts.read_manifest(folder)
            is_same = found.settings == settings and found.code_revision == artifacts.code_revision()
            if is_same and found.inputs == wanted:
                return artifacts.load(folder, "model")
    return None
