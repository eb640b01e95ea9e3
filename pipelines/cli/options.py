"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gapgate.settings import Settings, load

Params = Annotated[
    Path | None,
    typer.Option(
        "--params", metavar="FILE", help="Settings file. [default: params.yaml where there is one]", show_default=False
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="One setting, such as train.epochs=3; may be repeated.", show_default=False
    ),
]
ModelName = Annotated[str, typer.Option("--model", metavar="NAME", help="Name of the model in the registry.")]


def settings_of(params: Path | None, overrides: list[str] | None) -> Settings:
    """The settings of a command: `--params` or `params.yaml`, then each `--set`."""
    if params is None and Path("params.yaml").exists():
        params = Path("params.yaml")
    return load(params, overrides or [])
