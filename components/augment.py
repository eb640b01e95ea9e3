"""augment: settings and Splits → a validated augmentation Policy with its preview."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.facts import Facts
from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.data.splits import Splits
from gapgate.settings.sections import AugmentSettings
from gapgate.tracking import Tracker
from gapgate.training.augmentation.policy_artifact import write_policy


def run(settings: AugmentSettings, inputs: Mapping[str, Artifact], folder: Path, tracker: Tracker) -> Facts:
    """Draw a preview of the policy on real training images; training applies the policy afresh each epoch."""
    write_policy(settings, Splits.open(inputs["splits"].path), folder, tracker)
    return describe(folder)


def describe(folder: Path) -> Facts:
    """The facts about a Policy artifact."""
    names = [operation["type"] for operation in artifacts.read_json(folder / "policy.json")["operations"]]
    return Facts(
        summary=", ".join(names) or "no operations",
        files={"preview.png": "augmentation"},
        images={"preview.png": "augmentation"},
    )
