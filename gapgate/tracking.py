"""What a step may say while it works. Whoever runs the step decides where it goes (see `components.tracking`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Tracker(Protocol):
    """Receives what a step reports; no call blocks on a server or fails because of one."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Slash-grouped figures (`train/loss`) at an epoch, counted from 1, or 0 for a figure of the whole run."""

    def params(self, values: Mapping[str, object]) -> None:
        """Resolved settings, by dotted path."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Facts to search runs by."""

    def file(self, path: Path, folder: str = "") -> None:
        """A file to keep with the run, in `folder`; it must not change afterwards."""

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        """`done` of `total` units (`epochs`, `images`) of the running step; `note` is a short figure to show."""


class NullTracker:
    """Tells nobody."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None: ...

    def params(self, values: Mapping[str, object]) -> None: ...

    def tags(self, values: Mapping[str, str]) -> None: ...

    def file(self, path: Path, folder: str = "") -> None: ...

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None: ...
