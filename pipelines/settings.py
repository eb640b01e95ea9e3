"""Settings of a command or a call: a file, single values after it, and a source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gapgate.errors import DataError
from gapgate.settings import load
from gapgate.settings.sections import DataSettings, Settings


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
    """Settings with a source, if one is named. A mistyped path is an error here, before any step starts.

    Raises:
        DataError: there is no such source, or nothing is pinned where none is named.
    """
    if source is not None:
        try:
            source.encode()
        except UnicodeEncodeError:
            raise DataError(f"{source!r} is no name in UTF-8; rename it, or go into the folder and name `.`") from None
        settings = settings.model_copy(update={"data": settings.data.model_copy(update={"source": source})})
    _refuse_missing(settings.data)
    return settings


def _refuse_missing(data: DataSettings) -> None:
    if data.source:
        from components.platform.data.source_files import origin_of
        from gapgate.data.sources import BUILTINS

        if data.source not in BUILTINS:
            origin_of(data.source)
    # Another revision, or a repository elsewhere, has its pin in git, where ingest looks for it.
    elif not data.revision and (root := Path(data.repository)).is_dir() and not (root / data.path).exists():
        from components.platform.data.dvc_data import pinned

        pinned(root, data.path)


def with_experiment(settings: Settings, experiment: str) -> Settings:
    """Settings with an MLflow experiment, if one is named."""
    if not experiment:
        return settings
    return settings.model_copy(update={"tracking": settings.tracking.model_copy(update={"experiment": experiment})})
