"""The promotion rule: a packaged version becomes champion when it is the first, or not worse than the champion."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.platform.registry import mlflow_registry as registries
from components.platform.registry.mlflow_registry import Registry, Version
from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.data.splits import Splits
from gapgate.evidence.compare import compare, compare_answers
from gapgate.evidence.sealed.package import Passed
from gapgate.onnx.classifier import Classifier
from gapgate.settings.sections import RegistrySettings

DECISION_TAG = "gapgate.promotion"
"""Tag of a version with the decision on it, as JSON. It is the last that a registration writes, so it says that all
before it is done, and a version that has it is not judged again: a later promotion by hand or a rollback holds."""


def decide(registry: Registry, passed: Passed, version: Version, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """Set the aliases of a version whose package was verified, and return the decision: alias, reason, comparison.

    Raises:
        TrackingError: the registry does not answer; the decision can be made later.
        ArtifactError, GateError, RegistryError: the champion's package is missing, damaged or does not pass.
    """
    if kept := version.tags.get(DECISION_TAG):
        return dict(json.loads(kept))
    while True:
        champion = registry.champion(version.name)
        # Outside the lock, since it takes as long as the test images do.
        decision = _judged(registry, champion, version, inputs)
        with registry.exclusive(version.name) as held:
            if _number(registry.champion(version.name)) != _number(champion):
                continue  # of two runs that end at once, the second is compared with the first
            if decision["alias"] == registries.CHALLENGER:
                registry.challenge(version, held)
            elif _number(champion) != version.version:
                registry.promote(passed, held, ends_challenge=True)
            registry.tag(version, {DECISION_TAG: json.dumps(decision)})
        return decision


def present(version: Version, run: str) -> dict[str, Any]:
    """The decision on a version that the run `run` has registered and packaged, with the alias that it has now."""
    alias = next((each for each in (registries.CHAMPION, registries.CHALLENGER) if each in version.aliases), "")
    reason = f"run {run} registered the same model with the verdict {version.verdict}"
    return {"alias": alias, "reason": reason, "known_from": run}


def classes_of(model: Artifact) -> str:
    """A digest of the class names in their order."""
    return artifacts.digest_of(model.read_json("architecture.json")["class_names"])


def _judged(
    registry: Registry, champion: Version | None, version: Version, inputs: Mapping[str, Artifact]
) -> dict[str, Any]:
    if champion is None:
        return {"alias": registries.CHAMPION, "reason": "the first version that passed"}
    # Of an earlier try; comparing the model with itself would say nothing.
    if champion.version == version.version:
        return {"alias": registries.CHAMPION, "reason": "an earlier try of this step promoted it"}
    comparison = _compared(registry, champion, version, inputs)
    return {
        "alias": registries.CHAMPION if comparison["not_worse"] else registries.CHALLENGER,
        "reason": f"against version {champion.version}: {comparison['reason']}",
        "comparison": comparison,
    }


def _compared(
    registry: Registry, champion: Version, version: Version, inputs: Mapping[str, Artifact]
) -> dict[str, Any]:
    """Compare both ONNX files on this run's test images, or after a cross-validation the answers to held-out images; a
    champion of other classes cannot be compared."""
    if champion.tags.get("gapgate.classes") != classes_of(inputs["model"]):
        name = "" if version.name == RegistrySettings().model_name else f" --model {version.name}"
        remedy = f"`gapgate promote {version.version}{name}` makes it champion"
        return {"not_worse": False, "reason": f"it knows other classes; {remedy}"}
    splits = Splits.open(inputs["splits"].path)
    rows = splits.rows("test")
    with tempfile.TemporaryDirectory() as folder:
        passed = registry.package(champion, Path(folder))
        if splits.num_folds:
            answers = inputs["evaluation"].path / "predictions.parquet"
            result = compare_answers(registry.answers_file(passed, champion, Path(folder)), answers)
        else:
            challenger = Classifier.load(inputs["model"].path / "model.onnx")
            serving = Classifier.load(passed.folder / "model.onnx")
            result = compare(serving, challenger, splits.images[rows], splits.labels[rows])
    return {"champion_version": champion.version, **result.model_dump(mode="json")}


def _number(version: Version | None) -> str:
    return version.version if version else ""
