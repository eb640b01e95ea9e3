"""evaluate: Splits and Model → the Evaluation, measured on the ONNX file that will be served."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.data.splits import SPLIT_NAMES, Splits
from gapgate.evidence.evaluate import evaluate, show
from gapgate.settings.sections import EvaluateSettings
from gapgate.tracking import Tracker


def run(settings: EvaluateSettings, inputs: Mapping[str, Artifact], out_dir: Path, tracker: Tracker) -> Artifact:
    """Measure `inputs["model"]` on un-augmented train, val and test images of `inputs["splits"]`."""
    splits, model = inputs["splits"], inputs["model"]
    with artifacts.create(
        out_dir, kind="evaluation", step="evaluate", settings=settings.model_dump(mode="json"), inputs=inputs
    ) as folder:
        evaluate(settings, Splits.open(splits.path), model.path, folder, tracker)
        artifacts.write_json(folder / "metrics.json", headline(artifacts.read_json(folder / "evaluation.json")))
    result = artifacts.load(out_dir, "evaluation")
    show(out_dir, tracker)
    tracker.tags({"evaluation.digest": result.digest})
    return result


def headline(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The few figures that are compared between runs (`dvc metrics diff`, the MLflow run list, KFP's metrics)."""
    gap = evaluation["gap"]
    figures = {f"{split}_accuracy": evaluation["accuracy"][split]["value"] for split in SPLIT_NAMES}
    figures |= {"gap_points": gap["points"], "gap_low": gap["low"], "gap_high": gap["high"]}
    return figures | {"test_ece": evaluation["calibration"]["ece"]}


def describe(evaluation: Artifact) -> str:
    """A line for the terminal."""
    figures = evaluation.read_json("metrics.json")
    return (
        f"test accuracy {figures['test_accuracy']:.1%}, gap {figures['gap_points']:.1f} points "
        f"({figures['gap_low']:.1f} to {figures['gap_high']:.1f})"
    )
