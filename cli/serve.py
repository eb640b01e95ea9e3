"""`gapgate serve`: a packaged model over HTTP."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from cli.options import DEFAULT_MODEL, Port, find_champion, status
from gapgate.errors import GateError, RegistryError, SettingsError, TrackingError

if TYPE_CHECKING:
    from serving.run import Server

_REGISTRY = "models:/"


def serve(
    bento: Annotated[
        str | None,
        typer.Argument(
            metavar="BENTO",
            help="A .bento file, or a model in the registry: models:/NAME@ALIAS, models:/NAME/3. By default the "
            "champion's Bento.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="Whose champion; with models:/NAME@ALIAS the server follows the registry: another version takes over "
            "when the alias moves. By default GAPGATE_MODEL, or gapgate.",
            show_default=False,
        ),
    ] = None,
    port: Port = 3000,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; for others than this machine set GAPGATE_API_KEYS.")
    ] = "127.0.0.1",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            max=256,
            help="Processes; each answers on one core. By default GAPGATE_WORKERS, or 1.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Serve a packaged model over HTTP, by default the champion."""
    from serving.access import check_address
    from serving.options import Options

    if bento and bento.startswith(_REGISTRY):
        if model:
            raise SettingsError(f"both {bento} and --model {model} name a model; leave one out")
        bento, model = None, bento
    model = model or os.environ.get("GAPGATE_MODEL") or DEFAULT_MODEL
    uri = model if model.startswith(_REGISTRY) else ""
    environment = {"GAPGATE_MODEL": uri, "GAPGATE_LOG_FORMAT": os.environ.get("GAPGATE_LOG_FORMAT") or "text"}
    if workers:
        environment["GAPGATE_WORKERS"] = str(workers)
    options = Options.from_environment(os.environ | environment)
    check_address(host, options)
    # A SIGTERM ends the servers with us, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with ExitStack() as stack:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gapgate-serve-")))
            archive = _archive(bento, model)
            if uri:
                environment |= stack.enter_context(_registry(uri, work))
            _serve(archive, host, port, work, environment, uri or archive.name, bool(options.api_keys))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _archive(bento: str | None, model: str) -> Path:
    """The Bento to start: any one is enough where the model comes from the registry, since it only brings the code."""
    from pipelines.local.bentos import newest_bento

    if bento:
        return Path(bento)
    if model.startswith(_REGISTRY):
        return newest_bento()
    return find_champion(model)


@contextmanager
def _registry(uri: str, work: Path) -> Iterator[dict[str, str]]:
    """The variables by which a server finds its registry: the tracking server, or MLflow's own on the local store for
    the time of the block.

    Raises:
        RegistryError: the store has no such version, or its package is still to come.
        GateError: the version's verdict is not pass.
    """
    from components.platform import mlflow_server
    from components.platform.workspace import local_store, tracking_uri
    from serving.registry import ModelUri

    parsed = ModelUri.parse(uri)
    if tracking_uri().startswith(("http://", "https://")):
        _check(parsed, tracking_uri(), work)
        yield {"MLFLOW_TRACKING_URI": tracking_uri()}
        return
    if tracking_uri() == f"sqlite:///{local_store()}" and not local_store().exists():
        raise RegistryError(f"there are no runs yet, and so no {uri}; `gapgate run` makes one")
    with ExitStack() as stack:
        with status("starting MLflow's server on the local store"):
            address = stack.enter_context(mlflow_server.running(work / "mlflow.log"))
        _check(parsed, address, work)
        # Packages are kept by the registry's address, and this one is new each time.
        yield {"MLFLOW_TRACKING_URI": address, "GAPGATE_MODEL_CACHE": str(work / "models")}


def _check(uri: Any, address: str, work: Path) -> None:
    """Say at once what the server would go on waiting for. Where the registry is away, it may know the model still."""
    from serving.registry import MlflowRegistry

    try:
        found = MlflowRegistry(address, work).resolve(uri)
    except TrackingError as error:
        Console(stderr=True).print(f"[yellow]{error}[/]", soft_wrap=True, highlight=False)
        return
    if found.verdict != "pass":
        raise GateError(f"{found} has the verdict {found.verdict or 'none'}, not pass; promote another version")
    if found.awaited:
        raise RegistryError(found.awaited)


def _serve(
    archive: Path, host: str, port: int, work: Path, environment: dict[str, str], what: str, has_keys: bool
) -> None:
    """Start the server, say where it is, and pass its log on until it ends."""
    from serving.run import serve as start

    with start(archive, host=host, port=port, work_dir=work / "server", environment=environment) as server:
        with status("starting the server"):
            server.wait_ready()
        header = "-H 'X-API-Key: KEY' " if has_keys else ""
        console = Console(soft_wrap=True, highlight=False)
        console.print(f"[bold]serving {escape(what)}[/] at {server.url}  (Ctrl-C stops it)")
        url = server.url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")  # as a browser takes it
        console.print(f"page:    {url}/")
        console.print(f"docs:    {url}/docs")
        console.print(f"try it:  curl {header}-F image=@IMAGE.png {url}/v1/predict")
        _pass_log_on(server)
        server.wait_ready()  # raises, with the reason: nobody asked it to end


def _pass_log_on(server: Server) -> None:
    """Print what the server logs, such as a change of model, until it ends."""
    with server.log.open(errors="replace") as log:
        while True:
            ended = server.process.poll() is not None
            if text := log.read():
                sys.stderr.write(text)
                sys.stderr.flush()
            if ended:
                return
            time.sleep(0.2)
