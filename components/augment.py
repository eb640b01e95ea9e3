"""augment: settings and Splits → a validated augmentation Policy with its preview."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.data.splits import Splits
from gapgate.settings.sections import AugmentSettings
from gapgate.tracking import Tracker
from gapgate.training.policy_artifact import write_policy


def run(settings: AugmentSettings, inputs: Mapping[str, Artifact], out_dir: Path, tracker: Tracker) -> Artifact:
    """Draw a preview of the policy on real training images; training applies the policy afresh each epoch."""
    with artifacts.create(
        out_dir, kind="policy", step="augment", settings=settings.model_dump(mode="json"), inputs=inputs
    ) as folder:
        write_policy(settings, Splits.open(inputs["splits"].path), folder, tracker)
    tracker.file(out_dir / "preview.png", "augmentation")
    return artifacts.load(out_dir, "policy")


def describe(policy: Artifact) -> str:
    """A line for the terminal."""
    names = [operation["type"] for operation in policy.read_json("policy.json")["operations"]]
    return ", ".join(names) or "no operations"
