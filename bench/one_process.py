"""The same eight steps as `gapgate run` on digits, called in one process: the lower bound that overhead is measured to.

python -m bench.one_process PARAMS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from components.catalog import STEPS
from components.execute import execute
from components.platform.run_context import RunContext
from components.platform.tracking import mlflow_runs
from gapgate.settings import load


def main(params: Path) -> None:
    """Run every step of the catalog into `out/` of the working folder, in one MLflow run."""
    settings = load(params, ["data.source=digits"]).model_dump(mode="json")
    context = RunContext.new()
    context.export()
    for step in STEPS.values():
        inputs = {kind: f"out/{kind}" for kind in step.inputs}
        execute(step.name, json.dumps(settings.get(step.section, {})), inputs, f"out/{step.output}")
    mlflow_runs.finish(context, succeeded=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
