"""`gapgate serve`: serve a packaged model over HTTP."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import inf
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from cli.options import DEFAULT_MODEL, Port, argument, find_champion, option, status
from cli.terminal.console import Console
from gapgate.errors import GateError, RegistryError, SettingsError, TrackingError

_REGISTRY = "models:/"


def serve(
    bento: Annotated[
        str | None,
        argument(
            metavar="BENTO",
            help="A .bento file, or a model in the registry: models:/NAME@ALIAS, models:/NAME/3. By default the "
            "champion's Bento.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        option(
            "--model",
            metavar="NAME",
            help="Whose champion; with models:/NAME@ALIAS the server follows the registry: another version takes over "
            "when the alias moves. By default GAPGATE_MODEL, or gapgate.",
        ),
    ] = None,
    port: Port = 3000,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; for others than this machine set GAPGATE_API_KEYS.")
    ] = "127.0.0.1",
    uds: Annotated[
        Path | None,
        option("--uds", metavar="PATH", help="A Unix socket to listen on instead."),
    ] = None,
    workers: Annotated[
        int | None,
        option(
            "--workers", min=1, max=256, help="Processes; each answers on one core. By default GAPGATE_WORKERS, or 1."
        ),
    ] = None,
) -> None:
    """Serve a packaged model over HTTP, by default the champion."""
    from serving.http.access import check_address
    from serving.options import Options, is_loopback

    bento, model = _named(bento, model)
    uri = model if model.startswith(_REGISTRY) else ""
    # Text for a person at a terminal; a server by itself logs JSON.
    environment = {"GAPGATE_MODEL": uri, "GAPGATE_LOG_FORMAT": os.environ.get("GAPGATE_LOG_FORMAT") or "text"}
    if workers:
        environment["GAPGATE_WORKERS"] = str(workers)
    if uds is None and is_loopback(host):  # its users are on this machine, as the user of that variable is
        from components.platform.tracking.mlflow_client import is_server
        from components.platform.workspace import tracking_uri

        if is_server() and not os.environ.get("GAPGATE_MLFLOW_URL"):
            environment["GAPGATE_MLFLOW_URL"] = tracking_uri()
    options = Options.from_environment(os.environ | environment)
    # Before the model is looked up, which takes seconds.
    if uds is None:
        check_address(host, options)
    # SIGTERM raises SystemExit, so that the blocks below end the servers, as with Ctrl-C; so does SIGHUP, of a terminal
    # that closes, unless nohup keeps it away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(0))
    try:
        with ExitStack() as stack:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gapgate-serve-")))
            archive = _archive(bento, model)
            if uri:
                environment |= stack.enter_context(_registry(uri, work))
            _serve(archive, host, port, uds, work, environment, uri or archive.name, bool(options.api_keys))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _named(bento: str | None, model: str | None) -> tuple[str | None, str]:
    """The Bento's file, if one is given, and the model; models:/… may be given in the place of either."""
    if bento and bento.startswith(_REGISTRY):
        if model:
            raise SettingsError(f"both {bento} and --model {model} name a model; leave one out")
        return None, bento
    return bento, model or os.environ.get("GAPGATE_MODEL") or DEFAULT_MODEL


def _archive(bento: str | None, model: str) -> Path:
    """Path of the Bento to start. With a model from the registry any Bento will do, since only its code is used."""
    from pipelines.local.bentos import newest_bento

    if bento:
        return Path(bento)
    if model.startswith(_REGISTRY):
        return newest_bento()
    return find_champion(model)


@contextmanager
def _registry(uri: str, work: Path) -> Iterator[dict[str, str]]:
    """Yield the environment variables with the registry's address: the tracking server's, or that of an MLflow server
    on the local store, which runs for the time of the block.

    Raises:
        RegistryError: the store has no such version, or the version has no package yet.
        GateError: the version's verdict is not pass.
    """
    from components.platform.tracking import mlflow_server
    from components.platform.workspace import local_store, tracking_uri
    from serving.model.registry import ModelUri

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
        # The cache is keyed by the registry's address, and this port is new each time: it would only grow.
        yield {"MLFLOW_TRACKING_URI": address, "GAPGATE_MODEL_CACHE": str(work / "models")}


def _check(uri: Any, address: str, work: Path) -> None:
    """Raise at once for a version that the server would wait for without end. A registry that is away is only a
    warning, since the server may have the model in its cache.

    Raises:
        RegistryError: there is no such version, or it has no package yet.
        GateError: the version's verdict is not pass.
    """
    from serving.model.registry import MlflowRegistry

    try:
        found = MlflowRegistry(address, uri, work).resolve()
    except TrackingError as error:
        Console(stderr=True).print(f"[yellow]{error}[/]", soft_wrap=True, highlight=False)
        return
    if found.verdict != "pass":
        raise GateError(f"{found} has the verdict {found.verdict or 'none'}, not pass; promote another version")
    if found.awaited:
        raise RegistryError(found.awaited)


def _serve(
    archive: Path,
    host: str,
    port: int,
    uds: Path | None,
    work: Path,
    environment: dict[str, str],
    what: str,
    has_keys: bool,
) -> None:
    """Start the server, print its addresses, and print its log until it ends."""
    from gapgate.process.child_server import Relay
    from serving.run import serve as start

    relay = Relay()
    with start(
        archive, host=host, port=port, uds=uds, work_dir=work / "server", environment=environment, relay=relay
    ) as server:
        # A model of the registry may be large, and the registry slow or away; the server goes on asking.
        followed = bool(environment["GAPGATE_MODEL"])
        with status(f"fetching {what}" if followed else "starting the server"):
            server.wait_ready(inf if followed else 60.0)
        header = "-H 'X-API-Key: KEY' " if has_keys else ""
        console = Console(soft_wrap=True, highlight=False)
        console.print(f"[bold]serving {escape(what)}[/] at {uds or server.url}  (Ctrl-C stops it)")
        url = server.url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")  # as a browser takes it
        if uds:
            url = f"--unix-socket {uds} {url}"
        else:
            console.print(f"page:    {url}/")
            console.print(f"docs:    {url}/docs")
        console.print(f"try it:  curl {header}-F image=@IMAGE.png {url}/v1/predict")
        relay.pass_on()
        server.process.wait()
        server.wait_ready()  # raises with the reason, since the server ended by itself
