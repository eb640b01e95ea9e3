"""gate: an Evaluation → the Certificate, and the report with the verdict in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.facts import Facts
from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.evidence.advice import advise, in_lines
from gapgate.evidence.gate import judge
from gapgate.report.html import render
from gapgate.report.note import note
from gapgate.settings.sections import GateSettings
from gapgate.tracking import NOTE_TAG, Tracker


def run(settings: GateSettings, inputs: Mapping[str, Artifact], folder: Path, tracker: Tracker) -> Facts:
    """Judge `inputs["evaluation"]`. A model that does not pass is a result, not an error: the verdict is in
    `certificate.json`."""
    evaluation = inputs["evaluation"].read_json("evaluation.json")
    certificate = judge(settings, evaluation).model_dump(mode="json")
    artifacts.write_json(folder / "certificate.json", certificate)
    # Small, for `dvc metrics`, which shows every entry of a file.
    artifacts.write_json(folder / "verdict.json", {"verdict": certificate["verdict"]})
    advice = advise(evaluation, certificate)
    artifacts.write_json(folder / "advice.json", advice)
    # Here and not in evaluate, so that the report is rendered once and shows the verdict.
    report = render(evaluation, inputs["evaluation"].path / "figures", certificate, advice)
    artifacts.write_text(folder / "report.html", report)
    checks = certificate["checks"]
    passed = sum(check["verdict"] == "pass" for check in checks)
    return Facts(
        summary=f"{certificate['verdict']}: {passed} of {len(checks)} checks pass",
        verdict=certificate["verdict"],
        details=[
            *(f"{check['verdict']:<9}  {check['name']:<17}  {check['reason']}" for check in checks),
            *(["what now", *in_lines(advice)] if advice else []),
        ],
        tags={"gate.verdict": certificate["verdict"], NOTE_TAG: note(evaluation, certificate, advice)},
        files={"certificate.json": "gate", "report.html": "report"},
    )
