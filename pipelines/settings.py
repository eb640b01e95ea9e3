"""Settings of a command or a call: a file, single values after it, and a source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gapgate.settings import load
from gapgate.settings.sections import Settings


def settings_file(params: Path | None) -> Path | None:
    """The settings file of a command: `params`, or `params.yaml` where there is one."""
    return params or (Path("params.yaml") if Path("params.yaml").exists() else None)


def settings_of(params: Path | None, overrides: Sequence[str] | None) -> Settings:
    """The settings of a file, `params` or `params.yaml`, with each of `overrides` (`NAME=VALUE`) after it."""
    return load(settings_file(params), overrides or [])


def settings_here(params: Path | None, overrides: Sequence[str] | None) -> Settings:
    """`settings_of` for work on this machine; credentials are taken out of a repository's URL."""
    from components.platform import credentials

    settings = settings_of(params, overrides)
    return settings.model_copy(update={"data": credentials.taken_from(settings.data)})


def with_source(settings: Settings, source: str | None) -> Settings:
    """Settings with a source, if one is named.

    Raises:
        DataError: there is no such source.
    """
    if source is None:
        return settings
    from gapgate.data.sources import BUILTINS
    from gapgate.errors import DataError

    try:
        source.encode()
    except UnicodeEncodeError:
        raise DataError(f"{source!r} is no name in UTF-8; rename it, or go into the folder and name `.`") from None
    # Checked here, so that a mistyped path is an error before any step starts.
    if source not in BUILTINS and not Path(source).exists():
        raise DataError(f"no such folder or file: {source}; name one, or a built-in data set ({', '.join(BUILTINS)})")
    return settings.model_copy(update={"data": settings.data.model_copy(update={"source": source})})


def with_experiment(settings: Settings, experiment: str) -> Settings:
    """Settings with an MLflow experiment, if one is named."""
    if not experiment:
        return settings
    return settings.model_copy(update={"tracking": settings.tracking.model_copy(update={"experiment": experiment})})
