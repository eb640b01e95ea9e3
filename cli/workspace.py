"""`gapgate ui`, `clean` and `sync`: browse the workspace's runs, free their disk, and send what is left to send."""

from __future__ import annotations

import sys
import webbrowser
from typing import Annotated

import typer
from rich.filesize import decimal
from rich.table import Table

from cli.options import Port, close_killed_runs
from cli.terminal.console import Console
from gapgate.errors import RegistryError, TrackingError
from gapgate.text import redacted


def ui(
    port: Port = 5000,
    opens: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Browse runs and models in MLflow's own UI, on the local store."""
    from components.platform.tracking import mlflow_client, mlflow_runs, mlflow_server
    from components.platform.workspace import local_store, tracking_uri

    def ready(address: str) -> None:
        page = mlflow_runs.experiment_url(address)
        Console().print(f"MLflow at {page}", soft_wrap=True, highlight=False)
        if charts := mlflow_runs.charts_url(address):
            Console().print(f"charts of its runs: {charts}", soft_wrap=True, highlight=False)
        Console().print("Ctrl-C stops it")
        sys.stdout.flush()  # in a pipe too: the command goes on until it is stopped
        if opens:
            webbrowser.open(page)

    if mlflow_client.is_server():
        page = mlflow_runs.experiment_url(redacted(tracking_uri()))
        Console().print(f"the runs are on the tracking server: {page}", soft_wrap=True, highlight=False)
        if charts := mlflow_runs.charts_url(redacted(tracking_uri())):
            Console().print(f"charts of its runs: {charts}", soft_wrap=True, highlight=False)
        if opens:
            webbrowser.open(page)
        return
    if not local_store().exists():
        raise RegistryError("there are no runs yet; `gapgate run` makes one")
    close_killed_runs()
    raise typer.Exit(mlflow_server.serve(port, ready))


def clean(
    keep: Annotated[
        int, typer.Option("--keep", metavar="NUMBER", min=0, help="Number of newest runs that keep their artifacts.")
    ] = 3,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Free the disk of old runs' artifacts; logs, receipts, MLflow and every champion stay."""
    from pipelines.local import cleaning

    close_killed_runs()
    console = Console()
    runs = cleaning.old_runs(keep)
    if not runs:
        console.print("nothing to free")
        return
    table = Table("run", "size", box=None)
    for run in runs:
        table.add_row(run.name, decimal(run.size_bytes))
    console.print(table)
    total = decimal(sum(run.size_bytes for run in runs))
    if not yes and not typer.confirm(f"Free {total} of {len(runs)} runs?"):
        console.print("nothing was freed")
        return
    cleaning.free(runs)
    console.print(f"freed {total}")


def sync() -> None:
    """Send what the tracking server missed while it was away, register models that could not be registered, and close
    runs that were killed. Exit code 4: something waits still."""
    from pipelines.local.resume import settle_all

    console = Console()
    runs = []
    for run in settle_all():
        runs.append(run)
        console.print(f"{run.name}: {run.said}", soft_wrap=True, markup=False, highlight=False)
    if not runs:
        console.print("nothing is waiting")
    if not all(run.is_done for run in runs):
        raise typer.Exit(TrackingError.exit_code)
