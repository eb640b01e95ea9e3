"""`gapgate ui`, `clean` and `sync`: browse the workspace's runs, free their disk, and send what is left to send."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from cli.options import Port
from gapgate.errors import RegistryError
from gapgate.text import redacted


def ui(port: Port = 5000) -> None:
    """Browse runs and models in MLflow's own UI, on the local store."""
    from components.platform import mlflow_server
    from components.platform.workspace import local_store, tracking_uri

    if not tracking_uri().startswith("sqlite:"):
        Console().print(f"the runs are on the tracking server: {redacted(tracking_uri())}")
        return
    if not local_store().exists():
        raise RegistryError("there are no runs yet; `gapgate run` makes one")
    Console().print(f"MLflow at http://127.0.0.1:{port}  (Ctrl-C stops it)")
    command = [sys.executable, *mlflow_server.command(port)]
    raise typer.Exit(subprocess.run(command, env=mlflow_server.environment()).returncode)


def clean(
    keep: Annotated[int, typer.Option("--keep", min=0, help="Newest runs that keep their artifacts.")] = 3,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Free the disk of old runs' artifacts; logs, receipts, MLflow and every champion stay."""
    from pipelines.local import cleaning

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
    """Send what the tracking server missed while it was away, and register models that could not be registered."""
    from pipelines.local.resume import pending_runs, settle

    console = Console()
    runs = pending_runs()
    for context in runs:
        console.print(f"{context.name}: {settle(context)}", soft_wrap=True)
    if not runs:
        console.print("nothing is waiting")
