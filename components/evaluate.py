"""evaluate: Splits and Model → the Evaluation, measured on the ONNX file that will be served."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.facts import Facts
from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.data.splits import SPLIT_NAMES, Splits
from gapgate.evidence import tables
from gapgate.evidence.evaluate import evaluate
from gapgate.settings.sections import EvaluateSettings
from gapgate.text import number, percent
from gapgate.tracking import Tracker

_IMAGES = {"worst_errors": "worst errors", "suspects": "labels in doubt", "confusion": "confusion matrix"}
"""Figure → its key among the images of the run's page."""


def run(settings: EvaluateSettings, inputs: Mapping[str, Artifact], folder: Path, tracker: Tracker) -> Facts:
    """Measure `inputs["model"]` on un-augmented train, val and test images of `inputs["splits"]`."""
    splits, model = inputs["splits"], inputs["model"]
    evaluation = evaluate(settings, Splits.open(splits.path), model.path, folder, tracker)
    figures = headline(evaluation)
    artifacts.write_json(folder / "metrics.json", figures)
    return Facts(
        summary=f"{'held-out' if evaluation['method']['num_folds'] else 'test'} accuracy "
        f"{percent(figures['test_accuracy'])}, gap {number(figures['gap_points'])} points "
        f"({number(figures['gap_low'])} to {number(figures['gap_high'])})",
        files={"predictions.parquet": "evaluation", "suspects.csv": "evaluation"}
        | {f"figures/{path.name}": "figures" for path in sorted((folder / "figures").glob("*.png"))},
        tables={f"{tables.FOLDER}/{name}.json": tables.FOLDER for name in tables.NAMES},
        images={
            f"figures/{name}.png": key for name, key in _IMAGES.items() if (folder / "figures" / f"{name}.png").exists()
        },
    )


def headline(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Figures by which runs are compared in `dvc metrics diff`, MLflow's run list and KFP's metrics."""
    gap = evaluation["gap"]
    figures = {f"{split}_accuracy": evaluation["accuracy"][split]["value"] for split in SPLIT_NAMES}
    figures |= {"gap_points": gap["points"], "gap_low": gap["low"], "gap_high": gap["high"]}
    return figures | {"test_ece": evaluation["calibration"]["ece"]}
