"""The artifacts of a run on this machine, as KFP's local runner lays them out."""

from __future__ import annotations

from pathlib import Path

from components.catalog import STEPS
from components.platform.run_context import RunContext
from gapgate import artifacts

ARTIFACTS = "artifacts"
"""Folder of a run into which KFP writes the artifacts."""


def outputs_of(context: RunContext) -> dict[str, Path]:
    """Kind → folder of each complete artifact of a run; KFP lays them out as <pipeline run>/<step>/<kind>."""
    found = {}
    for step in STEPS.values():
        manifests = (context.folder / ARTIFACTS).glob(f"*/{step.name}/{step.output}/{artifacts.MANIFEST}")
        if manifest := next(manifests, None):
            found[step.output] = manifest.parent
    return found
