"""`gapgate run` and `gapgate step`: the whole pipeline, or one step of it, on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from cli.options import (
    LabelColumn,
    Overrides,
    Params,
    PathColumn,
    Source,
    close_killed_runs,
    name_settings,
    option,
    with_columns,
)
from cli.terminal.console import Console
from gapgate.errors import GapgateError
from pipelines.settings import settings_here, with_experiment, with_source


def run(
    source: Source = None,
    params: Params = None,
    overrides: Overrides = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    runner: Annotated[
        Literal["subprocess", "docker"],
        typer.Option("--runner", help="Place of each step: a process, or a container of the images of `make images`."),
    ] = "subprocess",
    name: Annotated[
        str,
        option("--name", metavar="NAME", help="Name of the run in MLflow; by default its time."),
    ] = "",
    experiment: Annotated[str, option("--experiment", metavar="NAME", help="MLflow experiment of the run.")] = "",
) -> None:
    """Run the whole pipeline here: ingest to package, with the gate."""
    # Before the imports below, which take seconds: a mistake is reported at once.
    settings = with_columns(with_source(settings_here(params, overrides), source), path_column, label_column)
    settings = with_experiment(settings, experiment)
    from cli.terminal.progress import TerminalDisplay
    from cli.terminal.run_summary import print_summary
    from pipelines.local.runner import run_pipeline

    close_killed_runs()
    console = Console(file=sys.stdout)  # bound now: while KFP runs, sys.stdout is the log file
    name_settings(console, params)
    try:
        result = run_pipeline(settings, TerminalDisplay(console), in_containers=runner == "docker", title=name)
    except KeyboardInterrupt as interrupt:
        console.print(f"interrupted; {interrupt or 'a training goes on from its last epoch'} when you run it again")
        # 128 + SIGINT, as shells report it.
        raise typer.Exit(130) from None
    print_summary(console, result)
    raise typer.Exit(result.exit_code)


def step(
    name: Annotated[
        str,
        typer.Argument(
            metavar="STEP", help="One of ingest, preprocess, augment, train, evaluate, gate, register, package."
        ),
    ],
    folder: Annotated[
        Path,
        typer.Option(
            "--artifacts", metavar="FOLDER", help="Folder in which inputs are read and the output is written."
        ),
    ] = Path("artifacts"),
    params: Params = None,
    overrides: Overrides = None,
) -> None:
    """Run one step, as the DVC stages do: artifacts/<input> to artifacts/<output>."""
    from components.catalog import STEPS
    from components.execute import execute

    if name not in STEPS:
        raise GapgateError(f"no step {name}; one of {', '.join(STEPS)}")
    found = STEPS[name]
    settings = settings_here(params, overrides)
    section = settings.model_dump(mode="json").get(found.section, {})
    inputs = {kind: str(folder / kind) for kind in found.inputs}
    console = Console(soft_wrap=True, highlight=False)
    artifact = execute(
        name,
        json.dumps(section),
        inputs,
        str(folder / found.output),
        tensorboard=settings.tracking.tensorboard,
        show=lambda facts: console.print(escape("\n".join([facts.summary, *facts.notes]))),
    )
    console.print(f"{artifact.path}  {artifact.digest}")
