"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli.terminal.console import Console
from gapgate.errors import TrackingError
from gapgate.settings.sections import Settings
from pipelines.settings import settings_file

option = partial(typer.Option, show_default=False)
"""An option whose help says what holds without it."""
argument = partial(typer.Argument, show_default=False)
"""An argument whose help says what holds without it."""
Params = Annotated[
    Path | None,
    option("--params", metavar="FILE", help="Settings file; by default params.yaml where there is one."),
]
Source = Annotated[
    str | None,
    argument(
        metavar="SOURCE",
        help="A folder of class folders, a table, IDX, CIFAR or NumPy files, `digits` or `shapes`; "
        "by default what data.dvc pins.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    option(
        "--set",
        metavar="NAME=VALUE",
        help="Value of one setting, such as train.epochs=3 or, for all layers of a type, "
        "train.architecture.conv.kernel=5; may be repeated.",
    ),
]
PathColumn = Annotated[
    str | None,
    option("--path-column", metavar="NAME", help="Column of a table with the image's path, by name or number."),
]
LabelColumn = Annotated[
    str | None,
    option("--label-column", metavar="NAME", help="Column of a table with the label, by name or number."),
]
Key = Annotated[
    str,
    option("--key", metavar="KEY", envvar="GAPGATE_API_KEY", help="API key for the server of --url."),
]
DEFAULT_MODEL = "gapgate"
Port = Annotated[
    int, typer.Option("--port", metavar="NUMBER", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
]
ModelName = Annotated[str, typer.Option("--model", metavar="NAME", help="Name of the model in the registry.")]


def name_settings(console: Console, params: Path | None) -> None:
    """Say which settings file is used, if one is."""
    if file := settings_file(params):
        console.print(f"settings of {escape(str(file))}", soft_wrap=True, highlight=False)


def with_columns(settings: Settings, path_column: str | None, label_column: str | None) -> Settings:
    """Settings with the columns of a table that a command names, if it names any."""
    named = {"path_column": path_column, "label_column": label_column}
    update = {name: column for name, column in named.items() if column is not None}
    return settings.model_copy(update={"data": settings.data.model_copy(update=update)})


@contextmanager
def status(text: str) -> Iterator[None]:
    """Show a spinner with `text` during the block, on a terminal only."""
    # On stderr, since stdout may be a file or a pipe.
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(escape(text)):
        yield


def close_killed_runs() -> None:
    """Close the MLflow runs of this workspace whose process was killed; a server that is away is asked another time."""
    from pipelines.local.resume import close_killed

    with suppress(TrackingError):
        close_killed()


def find_champion(name: str) -> Path:
    """Path of the champion's Bento; a spinner is shown, since MLflow takes seconds to start.

    Raises:
        RegistryError: as `pipelines.local.bentos.champion_bento`.
    """
    from pipelines.local.bentos import champion_bento

    with status(f"finding the champion of {name}"):
        return champion_bento(name)
