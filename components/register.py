"""register: Model and Certificate → a version in the MLflow registry, its aliases, and the receipt."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.facts import Facts
from components.platform import mlflow_registry as registries
from components.platform import mlflow_runs
from components.platform.mlflow_registry import Registry, Version
from components.platform.run_context import RunContext
from components.platform.workspace import receipts_dir
from gapgate import artifacts
from gapgate.artifacts import Artifact, code_revision
from gapgate.data.splits import Splits
from gapgate.evidence.compare import compare, compare_answers
from gapgate.evidence.receipt import Receipt, verify
from gapgate.onnx.classifier import Classifier
from gapgate.settings.sections import RegistrySettings
from gapgate.tracking import Tracker

_RECEIPT, _PACKAGE = "receipt/receipt.json", "package/model.bento"
"""Artifacts of an MLflow run that register and package upload."""


def run(settings: RegistrySettings, inputs: Mapping[str, Artifact], folder: Path, tracker: Tracker) -> Facts:
    """Register `inputs["model"]`. Every model becomes a version; a passed certificate makes it challenger, and champion
    when it is the first or not worse than the champion on the same test images. A model that an earlier run has
    registered with the same certificate keeps its version, with its aliases and its receipt as they are.

    Raises:
        TrackingError: the registry does not answer; the step can be run again later.
        ArtifactError: the inputs are not of one chain, such as an evaluation of another model.
        RegistryError: the files of the champion are not in the artifact store, so nothing can be compared with it.
    """
    lineage = artifacts.lineage(inputs)
    context = RunContext.current() or RunContext.new()
    verdict = inputs["certificate"].read_json("certificate.json")["verdict"]
    tracker.tags({"code.revision": code_revision()})
    # The MLflow run may not exist yet: it is made on the first contact with the server.
    run_id = mlflow_runs.send(context)
    registry, name = Registry(), settings.model_name
    # Of this run: an earlier try of this step may have registered the model and failed after that.
    begun = registry.of_run(name, run_id, inputs["model"].digest)
    if begun is None and (known := _known(registry, name, inputs, verdict)):
        version, receipt, decision = known
    else:
        version = begun or _register(registry, name, context, run_id, inputs, verdict)
        decision = (
            _promote(registry, version, inputs) if verdict == "pass" else {"alias": "", "reason": f"gate: {verdict}"}
        )
        receipt = _receipt(version, context, run_id, inputs, verdict)
        registry.tag(version, {"gapgate.receipt": receipt.digest})
    content = receipt.model_dump(mode="json")
    registration = {"name": version.name, "version": version.version, "receipt": receipt.digest, **decision}
    artifacts.write_json(folder / "registration.json", registration)
    artifacts.write_json(folder / "receipt.json", content)
    artifacts.write_json(folder / artifacts.LINEAGE, lineage)
    receipts_dir().mkdir(parents=True, exist_ok=True)
    # Also outside the run: `gapgate receipt` finds it after `gapgate clean` has removed the artifacts.
    artifacts.write_json(receipts_dir() / f"{receipt.digest.removeprefix('sha256:')}.json", content)
    return Facts(
        summary=f"{version.name} version {version.version}, {decision['alias'] or 'no alias'}: {decision['reason']}",
        details=[f"receipt {receipt.digest}"],
        tags={"model.version": version.version, "model.alias": decision["alias"], "receipt": receipt.digest},
        files={"receipt.json": "receipt"},
    )


def _known(
    registry: Registry, name: str, inputs: Mapping[str, Artifact], verdict: str
) -> tuple[Version, Receipt, dict[str, Any]] | None:
    """The version of the same model and certificate that an earlier run has completed, with its receipt and its present
    alias. Servers take the package from the run of the version, so one whose run ended before that does not count."""
    tags = {"gapgate.model": inputs["model"].digest, "gapgate.certificate": inputs["certificate"].digest}
    version = registry.completed(name, tags, [_RECEIPT, *([_PACKAGE] if verdict == "pass" else [])])
    if version is None:
        return None
    receipt = verify(registry.read(version, _RECEIPT), version.tags.get("gapgate.receipt", ""))
    # Nothing is compared again: a rollback or a promotion by hand since then holds.
    alias = next((each for each in (registries.CHAMPION, registries.CHALLENGER) if each in version.aliases), "")
    reason = f"run {receipt.run} registered the same model with the verdict {verdict}"
    return version, receipt, {"alias": alias, "reason": reason, "known_from": receipt.run}


def _register(
    registry: Registry, name: str, context: RunContext, run_id: str, inputs: Mapping[str, Artifact], verdict: str
) -> Version:
    model = inputs["model"]
    figures = {key: f"{value}" for key, value in inputs["evaluation"].read_json("metrics.json").items()}
    tags = {"gapgate.model": model.digest, "gapgate.verdict": verdict, "gapgate.run": context.name}
    tags |= {"gapgate.certificate": inputs["certificate"].digest, "gapgate.classes": _classes(model)}
    tags |= {f"gapgate.{key}": value for key, value in figures.items()}
    model_id = mlflow_runs.log_model(context, model.path / "model.onnx")
    return registry.register(name, model_id, run_id, tags)


def _promote(registry: Registry, version: Version, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """Set the aliases of a version that passed, and return the decision with its reason."""
    # One lock from the comparison to the change: of two runs that end at once, the second meets the new champion.
    with registries.promotion_lock(version.name):
        champion = registry.champion(version.name)
        if champion is None:
            registry.promote(version, ends_challenge=True)
            return {"alias": registries.CHAMPION, "reason": "the first version that passed"}
        # A retried step; comparing the model with itself would say nothing.
        if champion.version == version.version:
            return {"alias": registries.CHAMPION, "reason": "an earlier try of this step promoted it"}
        comparison = _compare(registry, champion, inputs)
        if comparison["not_worse"]:
            registry.promote(version, ends_challenge=True)
        else:
            registry.challenge(version)
        alias = registries.CHAMPION if comparison["not_worse"] else registries.CHALLENGER
    return {
        "alias": alias,
        "reason": f"against version {champion.version}: {comparison['reason']}",
        "comparison": comparison,
    }


def _compare(registry: Registry, champion: Version, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """Compare both ONNX files on this run's test images, or after a cross-validation the answers to held-out images; a
    champion of other classes cannot be compared."""
    if champion.tags.get("gapgate.classes") != _classes(inputs["model"]):
        return {"not_worse": False, "reason": "it knows other classes; `gapgate promote` if the new ones are meant"}
    splits = Splits.open(inputs["splits"].path)
    rows = splits.rows("test")
    with tempfile.TemporaryDirectory() as folder:
        if splits.num_folds:
            answers = inputs["evaluation"].path / "predictions.parquet"
            result = compare_answers(registry.answers_file(champion, Path(folder)), answers)
            return {"champion_version": champion.version, **result.model_dump(mode="json")}
        serving = Classifier.load(registry.model_file(champion, Path(folder)))
        challenger = Classifier.load(inputs["model"].path / "model.onnx")
        result = compare(serving, challenger, splits.images[rows], splits.labels[rows])
    return {"champion_version": champion.version, **result.model_dump(mode="json")}


def _classes(model: Artifact) -> str:
    """A digest of the class names in their order."""
    return artifacts.digest_of(model.read_json("architecture.json")["class_names"])


def _receipt(
    version: Version, context: RunContext, run_id: str, inputs: Mapping[str, Artifact], verdict: str
) -> Receipt:
    splits, model, evaluation = inputs["splits"], inputs["model"], inputs["evaluation"]
    digests = {kind: artifact.digest for kind, artifact in inputs.items()}
    # `register` does not read the dataset, the first link of the chain; the manifest of the splits has its digest.
    digests |= {"dataset": splits.manifest.inputs["dataset"]}
    return Receipt(
        model_name=version.name,
        model_version=version.version,
        run=context.name,
        tracking_run=run_id,
        data=splits.read_json("dataset.json"),
        code_revision=code_revision(),
        image_digest=model.manifest.image_digest,
        verdict=verdict,
        figures=evaluation.read_json("metrics.json"),
        artifacts=digests,
        settings={artifact.manifest.step: artifact.manifest.settings for artifact in inputs.values()},
    )
