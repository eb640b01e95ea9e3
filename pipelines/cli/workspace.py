"""`gapgate ui`, `serve`, `clean` and `sync`: what the workspace holds, shown, served, freed and sent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from gapgate.errors import RegistryError
from pipelines.cli.options import ModelName

Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free port.")]


def ui(port: Port = 5000) -> None:
    """Browse runs and models in MLflow's own UI, on the local store."""
    from components.platform.home import home, local_store, tracking_uri

    if not tracking_uri().startswith("sqlite:"):
        Console().print(f"the runs are on the tracking server: {tracking_uri()}")
        return
    if not local_store().exists():
        raise RegistryError("there are no runs yet; `gapgate run` makes one")
    store = ["--backend-store-uri", tracking_uri(), "--default-artifact-root", (home() / "mlartifacts").as_uri()]
    Console().print(f"MLflow at http://127.0.0.1:{port}  (Ctrl-C stops it)")
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *store,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    raise typer.Exit(subprocess.run(command, env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}).returncode)


def serve(
    bento: Annotated[
        Path | None, typer.Argument(help="A .bento file. [default: the champion's]", show_default=False)
    ] = None,
    port: Port = 3000,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    name: ModelName = "gapgate",
) -> None:
    """Serve a packaged model over HTTP, by default the champion."""
    from serving.run import serve as start

    archive = bento or champion_bento(name)
    # A SIGTERM ends the server with us, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    console = Console()
    with (
        tempfile.TemporaryDirectory(prefix="gapgate-serve-") as work,
        start(archive, host=host, port=port, work_dir=Path(work)) as server,
    ):
        server.wait_ready()
        console.print(f"serving {archive.name} at {server.url}  (Ctrl-C stops it)", soft_wrap=True)
        console.print(f"try it:  curl -F image=@IMAGE.png {server.url}/v1/predict", soft_wrap=True)
        server.process.wait()


def clean(
    keep: Annotated[int, typer.Option("--keep", min=0, help="Newest runs that keep their artifacts.")] = 3,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Free the disk of old runs' artifacts; logs, receipts, MLflow and every champion stay."""
    from pipelines import cleaning

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
    """Send what a tracking server that was away has not got, and register what could not be registered."""
    from pipelines.pending import pending_runs, settle

    console = Console()
    runs = pending_runs()
    for context in runs:
        console.print(f"{context.name}: {settle(context)}", soft_wrap=True)
    if not runs:
        console.print("nothing is waiting")


def champion_bento(name: str) -> Path:
    """The Bento of a model's champion, as its run packaged it.

    Raises:
        RegistryError: there is no champion, or its Bento is not on this machine.
    """
    from components.platform.context import RunContext
    from components.platform.registry import Registry

    champion = Registry().champion(name)
    if champion is None:
        raise RegistryError(f"{name} has no champion; `gapgate run` makes one when the gate passes")
    folder = RunContext(champion.tags.get("gapgate.run", "")).folder
    if found := next(folder.glob("artifacts/*/package/bento/model.bento"), None):
        return found
    raise RegistryError(f"the Bento of {name} version {champion.version} is not in {folder}; name a .bento file")
