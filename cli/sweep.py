"""`gapgate sweep`: a grid over one or two settings."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Overrides, Params, Source, name_settings, option
from cli.terminal.console import Console
from gapgate.settings.sections import Settings
from gapgate.text import redacted
from pipelines.settings import settings_here, with_source

if TYPE_CHECKING:
    from pipelines.trials.sweep import Sweep


def sweep(
    source: Source = None,
    over: Annotated[
        list[str] | None,
        option(
            "--over",
            metavar="NAME=V1,V2,…",
            help="A setting and its values, such as train.epochs=2,4; given once or twice.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="NUMBER", min=1, max=100, help="Number of trainings of each cell.")
    ] = 1,
    params: Params = None,
    overrides: Overrides = None,
) -> None:
    """Train every cell of a grid over one or two settings, and show which is best on val."""
    with_source(settings_here(params, overrides), source)  # so that later errors are of --over
    from cli.terminal.sweep_summary import live, print_summary
    from components.platform.tracking import mlflow_experiments
    from pipelines.trials import sweep_report, sweep_runs
    from pipelines.trials.sweep import plan

    def load(more: Sequence[str]) -> Settings:
        return with_source(settings_here(params, [*(overrides or []), *more]), source)

    def report(done: Sweep, folder: Path) -> list[Path]:
        return sweep_report.write(done, folder, _command(done, source, params, overrides))

    grid = plan(load, over or [], seeds)
    console = Console(file=sys.stdout)
    name_settings(console, params)
    mlflow_experiments.refuse_deleted_experiment(load([]).tracking.experiment)
    try:
        with live(console, grid) as (watch, ended):
            sweep_runs.run(grid, report, watch, ended)
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on from here")
        raise typer.Exit(130) from None
    print_summary(console, grid, _command(grid, source, params, overrides))


def _command(grid: Sweep, source: str | None, params: Path | None, overrides: list[str] | None) -> str:
    """The `gapgate run` command with the best cell's settings."""
    settings = [part for one in [*(overrides or []), *grid.overrides(grid.best)] for part in ("--set", one)]
    named = ["--params", str(params)] if params else []
    return redacted(shlex.join(["gapgate", "run", *([source] if source else []), *named, *settings]))
