"""`python -m tests.cli.registered`: two versions of the model `gapgate` in the workspace's own store, as the real
steps register and package them. The first one is the champion."""

import json
import os
import shutil

from cli.versions import promote
from components.catalog import STEPS
from components.execute import execute
from components.platform.run_context import RunContext
from components.platform.workspace import runs_dir
from gapgate.artifacts import RUN_VARIABLE
from tests.serving import packaged


def register(run, model):
    """One version, of a run of its own."""
    os.environ[RUN_VARIABLE] = run
    RunContext(run).spool.mkdir(parents=True)
    folder = runs_dir() / run / "artifacts" / "g" / "package"
    packaged.inputs(folder, model=model)
    shutil.rmtree(folder / "registration")
    for step in (STEPS["register"], STEPS["package"]):
        inputs = {kind: str(folder / kind) for kind in step.inputs}
        execute(step.name, json.dumps({}), inputs, str(folder / step.output))


if __name__ == "__main__":
    register("r1", packaged.linear_model())
    register("r2", packaged.pooled_model())
    promote("1", "gapgate")
