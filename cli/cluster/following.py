"""A run on a cluster on the terminal, from where it is now to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from cli.terminal.console import Console

if TYPE_CHECKING:
    from pipelines.kubeflow.client import Kfp
    from pipelines.kubeflow.follow import Outcome, Pace


def watch(kfp: Kfp, run_id: str, experiment: str, pace: Pace) -> int:
    """Show a run until it ends; returns the exit code."""
    from cli.terminal.progress import TerminalDisplay
    from pipelines.kubeflow.follow import follow, mlflow_url

    console = Console(highlight=False, soft_wrap=True)
    shown: list[str] = []

    # The first step makes the MLflow run, so its page is looked up after each step until it is there.
    def show_mlflow() -> None:
        if not shown and (url := mlflow_url(experiment, run_id)):
            shown.append(url)
            console.print(f"MLflow     {url}")

    display = TerminalDisplay(console)
    try:
        with display.live(run_id):
            outcome = follow(kfp, run_id, display, pace, show_mlflow)
    # Ctrl-C ends only the watching; the run is the cluster's.
    except KeyboardInterrupt:
        console.print(f"the run goes on; `gapgate runs --follow {run_id[:8]}` shows it, `gapgate cancel` ends it")
        raise typer.Exit(130) from None
    show_mlflow()
    return _conclude(outcome, console)


def _conclude(outcome: Outcome, console: Console) -> int:
    """Print how the run ended; returns the exit code."""
    from pipelines.kubeflow.run_status import verdict_of

    run_id = outcome.status.run.run_id[:8]
    if outcome.failure:
        if not outcome.is_shown:
            errors = Console(stderr=True, highlight=False, soft_wrap=True)
            errors.print(f"[red]error:[/] {outcome.failure.step}: {escape(outcome.failure.message)}")
        known = f"the log is in `gapgate logs {run_id}`"
        console.print(known if outcome.has_ended else f"the run still waits; `gapgate cancel {run_id}` ends it")
        return outcome.failure.exit_code
    for name in ("gate", "register"):
        for line in outcome.endings[name].details if name in outcome.endings else ():
            console.print(escape(line))
    if verdict_of(outcome.status.run) == "pass":
        console.print("[green bold]gate pass[/]: registered and packaged")
        return 0
    console.print("[red bold]gate not passed[/]: registered without alias, not packaged")
    return 3
