"""register: Model and Certificate → a version in the MLflow registry, and the receipt."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components import promotion
from components.facts import Facts
from components.platform.registry import mlflow_model
from components.platform.registry.mlflow_registry import RECEIPT_TAG, Registry, Version
from components.platform.run_context import DRAINED_VARIABLE, RunContext
from components.platform.tracking import mlflow_runs
from components.platform.workspace import receipts_dir
from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.data.splits import Splits
from gapgate.errors import ArtifactError
from gapgate.evidence.sealed.receipt import Receipt, verify
from gapgate.report.head import head
from gapgate.report.html import render
from gapgate.report.note import note
from gapgate.settings.sections import RegistrySettings
from gapgate.tracking import Tracker

_MODEL = """An image classifier that Gapgate trains. Only a version that passed its gate is `champion`, which is what
`gapgate serve` and `gapgate predict` answer with.

```python
mlflow.pyfunc.load_model("models:/{name}@champion").predict(["image.png"])
```
"""
"""Description of a registered model, in Markdown."""
_CODE_TAG = "gapgate.code_revision"


def run(settings: RegistrySettings, inputs: Mapping[str, Artifact], folder: Path, tracker: Tracker) -> Facts:
    """Register `inputs["model"]`. Every model becomes a version, without an alias: `package` promotes. A model that an
    earlier try or run has registered with the same certificate keeps its version and its receipt.

    Raises:
        TrackingError: the registry does not answer; the step can be run again later.
        ArtifactError: the inputs are not of one chain, such as an evaluation of another model; or the receipt of an
            earlier run is damaged.
        RegistryError: the receipt of an earlier run is not in the artifact store.
    """
    lineage = artifacts.lineage(inputs)
    context = RunContext.current() or RunContext.new()
    verdict = inputs["certificate"].read_json("certificate.json")["verdict"]
    # Of the process that trained, not of this one: `gapgate sync` may register later, with other code.
    tracker.tags({"code.revision": inputs["model"].manifest.code_revision})
    # The MLflow run may not exist yet: it is made on the first contact with the server.
    run_id = mlflow_runs.send(context)
    registry = Registry()
    version = _version(registry, settings.model_name, context, run_id, inputs, verdict)
    receipt = _kept(registry, version) or _receipt(version, inputs, verdict)
    content = receipt.model_dump(mode="json")
    registration = {"name": version.name, "version": version.version, "receipt": receipt.digest}
    artifacts.write_json(folder / "registration.json", registration)
    artifacts.write_json(folder / "receipt.json", content)
    artifacts.write_json(folder / artifacts.LINEAGE, lineage)
    receipts_dir().mkdir(parents=True, exist_ok=True)
    # Also outside the run: `gapgate receipt` finds it after `gapgate clean` has removed the artifacts.
    artifacts.write_json(receipts_dir() / f"{receipt.digest.removeprefix('sha256:')}.json", content)
    if not version.receipt:
        registry.keep(version, folder / "receipt.json", {RECEIPT_TAG: receipt.digest})
    _report(inputs, registration, tracker)
    decision = _decided(registry, version, context)
    context.record_decision(decision)
    alias = decision.get("alias", "")
    return Facts(
        summary=f"{version}, {alias or 'no alias'}: {decision['reason']}" if decision else str(version),
        details=[f"receipt {receipt.digest}"],
        tags={"model.version": version.version, "model.alias": alias, "receipt": receipt.digest},
        # `keep` has uploaded it, unless the version is of another run.
        files={} if version.run_id == run_id else {"receipt.json": "receipt"},
    )


def _report(inputs: Mapping[str, Artifact], registration: Mapping[str, Any], tracker: Tracker) -> None:
    """Report the page of the evaluation in the place of the gate's, which knows neither version nor receipt. A run on
    one machine does so at its end, when it knows the alias too."""
    evaluation, certificate = inputs["evaluation"].path, inputs["certificate"]
    content = artifacts.read_json(evaluation / "evaluation.json", None)
    if os.environ.get(DRAINED_VARIABLE) or not content:
        return
    page = render(
        content,
        evaluation / "figures",
        certificate.read_json("certificate.json"),
        artifacts.read_json(certificate.path / "advice.json", []),
        head(certificate.manifest, registration),
    )
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch, "report.html")
        artifacts.write_text(place, page)
        tracker.file(place, "report")  # which is copied: such a step keeps its files


def _version(
    registry: Registry, name: str, context: RunContext, run_id: str, inputs: Mapping[str, Artifact], verdict: str
) -> Version:
    """The version of this model with this certificate, which is made unless there is one, of whichever run."""
    identity = {"gapgate.model": inputs["model"].digest, "gapgate.certificate": inputs["certificate"].digest}
    if found := registry.made_of(name, identity):
        return found
    metrics = inputs["evaluation"].read_json("metrics.json")
    figures = {key: f"{value}" for key, value in metrics.items()}
    tags = identity | {
        "gapgate.verdict": verdict,
        "gapgate.run": context.name,
        _CODE_TAG: inputs["model"].manifest.code_revision,
    }
    tags |= {"gapgate.classes": promotion.classes_of(inputs["model"])}
    tags |= {f"gapgate.{key}": value for key, value in figures.items()}
    splits = Splits.open(inputs["splits"].path)
    # Of val: a cross-validation has no test split.
    example = splits.images[splits.rows("val")[0]]
    model_id = mlflow_model.log_model(context, inputs["model"].path, name, example, metrics)
    registry.name(name, _MODEL.format(name=name))
    # MLflow's list of versions shows the first line as it is written.
    description = mlflow_runs.linked(_note(inputs).removeprefix("### "), context)
    with registry.exclusive(name):
        # Again: another process may register the same model at the same moment.
        return registry.made_of(name, identity) or registry.register(name, model_id, run_id, tags, description)


def _note(inputs: Mapping[str, Artifact]) -> str:
    evaluation, advice = (
        artifacts.read_json(inputs[kind].path / f"{name}.json", default)
        for kind, name, default in (("evaluation", "evaluation", {}), ("certificate", "advice", []))
    )
    return note(evaluation, inputs["certificate"].read_json("certificate.json"), advice)


def _kept(registry: Registry, version: Version) -> Receipt | None:
    """The receipt of a version whose registration was completed."""
    if not version.receipt:
        return None
    try:
        return verify(registry.receipt(version), version.receipt)
    except (ArtifactError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(
            f"the receipt of {version} in the artifact store is damaged: {reason}; bring its file back"
        ) from None


def _decided(registry: Registry, version: Version, context: RunContext) -> dict[str, Any]:
    """Facts about the alias; empty for one that passed and is decided on when it is packaged."""
    run = version.tags["gapgate.run"]
    if version.verdict != "pass" and run == context.name:
        return {"alias": "", "reason": f"gate: {version.verdict}"}
    if version.verdict != "pass" or (version.package and promotion.DECISION_TAG in version.tags):
        return promotion.present(registry.find(version.name, version.version), run)
    return {}


def _receipt(version: Version, inputs: Mapping[str, Artifact], verdict: str) -> Receipt:
    splits, model, evaluation = inputs["splits"], inputs["model"], inputs["evaluation"]
    digests = {kind: artifact.digest for kind, artifact in inputs.items()}
    # `register` does not read the dataset, the first link of the chain; the manifest of the splits has its digest.
    digests |= {"dataset": splits.manifest.inputs["dataset"]}
    return Receipt(
        model_name=version.name,
        model_version=version.version,
        # Those of the version: an earlier run may have made it and ended before the receipt.
        run=version.tags["gapgate.run"],
        tracking_run=version.run_id,
        data=splits.read_json("dataset.json"),
        code_revision=version.tags.get(_CODE_TAG, model.manifest.code_revision),
        image_digest=model.manifest.image_digest,
        verdict=verdict,
        figures=evaluation.read_json("metrics.json"),
        artifacts=digests,
        settings={artifact.manifest.step: artifact.manifest.settings for artifact in inputs.values()},
    )
