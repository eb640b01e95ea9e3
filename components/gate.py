"""gate: an Evaluation → the Certificate, and the report with the verdict in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.evidence.gate import judge
from gapgate.report.html import render
from gapgate.settings.sections import GateSettings
from gapgate.tracking import Tracker


def run(settings: GateSettings, inputs: Mapping[str, Artifact], out_dir: Path, tracker: Tracker) -> Artifact:
    """Judge `inputs["evaluation"]`. A model that does not pass is a result, not an error: the verdict is in
    `certificate.json`."""
    evaluation = inputs["evaluation"]
    with artifacts.create(
        out_dir, kind="certificate", step="gate", settings=settings.model_dump(mode="json"), inputs=inputs
    ) as folder:
        certificate = judge(settings, evaluation.read_json("evaluation.json")).model_dump(mode="json")
        artifacts.write_json(folder / "certificate.json", certificate)
        artifacts.write_text(folder / "report.html", render(evaluation.path, certificate))
    tracker.tags({"gate.verdict": certificate["verdict"]})
    tracker.file(out_dir / "certificate.json", "gate")
    tracker.file(out_dir / "report.html", "report")
    return artifacts.load(out_dir, "certificate")


def describe(certificate: Artifact) -> str:
    """A line for the terminal."""
    content = certificate.read_json("certificate.json")
    passed = sum(check["verdict"] == "pass" for check in content["checks"])
    return f"{content['verdict']}: {passed} of {len(content['checks'])} checks pass"
