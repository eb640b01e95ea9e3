"""Interface of the displays that show a run to a person. `cli.terminal.progress` has the one for a terminal."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from components.platform.tracking.spool import Event


class Display(Protocol):
    """Shows a run while it works."""

    def live(self, run: str) -> AbstractContextManager[None]:
        """Context manager around the run named `run`."""
        ...

    def show(self, event: Event) -> None:
        """Show one event of the run."""
        ...

    def note(self, text: str) -> None:
        """Show a line beside the events."""
        ...
