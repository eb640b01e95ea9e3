"""Interface by which a step reports while it works. The caller of the step decides where reports go (see
`components.platform.tracking.spool`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image

NOTE_TAG = "gate.note"
"""Tag with what the gate says of the run in Markdown, which a tracker shows as the run's description. A link to
`run:PATH` leads to the file PATH among the run's artifacts."""


class Tracker(Protocol):
    """Receiver of a step's reports; no call waits for a server or fails because of one."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Report slash-grouped figures (`train/loss`) of the epoch `step`, counted from 1; 0: of the whole run."""

    def params(self, values: Mapping[str, object]) -> None:
        """Report resolved settings, by dotted path."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Report facts by which runs are searched."""

    def file(self, path: Path, folder: str = "") -> None:
        """Report a file to keep with the run, in `folder`; it must not change afterwards."""

    def image(self, path: Path, key: str, step: int = 0) -> None:
        """Report an image file to show under `key`, at the epoch `step`; it must not change afterwards."""

    def drawing(self, picture: Image, key: str, step: int = 0) -> None:
        """Report a picture that is no file, to show under `key`, at the epoch `step`."""

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        """Report `done` of `total` units (`batches`, `images`) of the running step; `note` is a short text to show,
        empty if the last one still holds."""


class NullTracker:
    """Tracker that drops all reports."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None: ...

    def params(self, values: Mapping[str, object]) -> None: ...

    def tags(self, values: Mapping[str, str]) -> None: ...

    def file(self, path: Path, folder: str = "") -> None: ...

    def image(self, path: Path, key: str, step: int = 0) -> None: ...

    def drawing(self, picture: Image, key: str, step: int = 0) -> None: ...

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None: ...
