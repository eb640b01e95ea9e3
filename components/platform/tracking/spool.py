"""The spool: the events that steps report, as JSON lines on the local disk, from where they are sent.

Each step appends to `<step>.jsonl`. Readers (the progress display, the sender to MLflow) follow the files at their own
pace, so a tracking server that is slow or away costs a step nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.platform.workspace import home
from gapgate.text import redacted

if TYPE_CHECKING:
    from PIL.Image import Image

Event = dict[str, Any]
KEPT = "files"
"""Folder in a spool with copies of files that are not sent yet."""


class Spool:
    """A `gapgate.tracking.Tracker` that writes one line an event, each in a single append."""

    def __init__(
        self,
        folder: Path,
        step: str,
        *,
        keep_files: bool = False,
        show: Callable[[Event], None] = lambda event: None,
    ) -> None:
        """Open the spool in `folder` for the events of `step`.

        Args:
            keep_files: True to copy each reported file into the spool, for a step whose disk ends with it, as a pod's.
            show: called with each event after it is written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.step = step
        self._keep_files = keep_files
        self._show = show
        self._file = os.open(folder / f"{step}.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        _end_line(self._file)  # of a try that was killed; else the next event joins it

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        self._write("metrics", values={name: float(value) for name, value in values.items()}, at=step)

    def params(self, values: Mapping[str, object]) -> None:
        self._write("params", values={name: str(value) for name, value in values.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        self._write("tags", values={name: str(value) for name, value in values.items()})

    def file(self, path: Path, folder: str = "") -> None:
        self._write("file", path=self._kept(path, folder), folder=folder)

    def image(self, path: Path, key: str, step: int = 0) -> None:
        self._write("image", path=self._kept(path, f"images/{key}/{step}"), key=key, at=step)

    def drawing(self, picture: Image, key: str, step: int = 0) -> None:
        place = self.folder / KEPT / self.step / "images" / key / str(step) / "picture.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        picture.save(place)
        path = os.path.relpath(place.absolute(), self.folder.absolute())
        self._write("image", path=path, key=key, at=step)

    def _kept(self, path: Path, folder: str) -> str:
        """The place from where a reported file is sent."""
        if self._keep_files:
            kept = self.folder / KEPT / self.step / folder / path.name
            kept.parent.mkdir(parents=True, exist_ok=True)
            path = Path(shutil.copyfile(path, kept))
        path = path.absolute()
        # Inside the workspace relative to the spool, so that a workspace can be moved before this is sent.
        return os.path.relpath(path, self.folder.absolute()) if path.is_relative_to(home()) else str(path)

    def data(self, source: str, digest: str, num_images: Mapping[str, int], classes: Sequence[str]) -> None:
        """Report the data set: its place, its DVC hash, the images of each split and the names of the classes."""
        self._write("data", source=source, digest=digest, num_images=dict(num_images), classes=list(classes))

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        self._write("progress", done=done, total=total, unit=unit, note=note)

    def started(self) -> None:
        """Report that the step begins, or begins again."""
        self._write("started")

    def waiting(self, message: str, seconds: float) -> None:
        """Report a passing fault, and that the step tries again in `seconds`."""
        self._write("waiting", message=message, seconds=seconds)

    def finished(self, summary: str, details: Sequence[str] = (), notes: Sequence[str] = (), verdict: str = "") -> None:
        """Report that the step ended well; `summary` is one line for people, `notes` and `details` are more of them,
        and the terminal shows no details. `verdict` is that on the model, if the step judges it."""
        self._write("finished", summary=summary, details=list(details), notes=list(notes), verdict=verdict)

    def failed(self, message: str, exit_code: int, trace: str = "", error: str = "") -> None:
        """Report that the step ended with an error: of the class `error` in `gapgate.errors`; or, with its traceback
        `trace`, one that is not the user's."""
        self._write("failed", message=message, exit_code=exit_code, trace=trace, error=error)

    def _write(self, kind: str, **content: Any) -> None:
        event = {"kind": kind, "step": self.step, "time": time.time(), **content}
        # One unbuffered write in O_APPEND mode: lines of two processes never mix, and a killed step loses no event.
        line = redacted(json.dumps(event))
        os.write(self._file, _summed(line.encode()) + b"\n")
        self._show(json.loads(line))


def place_of(file: Event, spool: Path) -> Path:
    """The absolute path of the file that an event of a spool reports."""
    return Path(os.path.normpath(spool.absolute() / file["path"]))


@dataclass
class Reader:
    """Follows the event files of a spool."""

    folder: Path
    offsets: dict[str, int] = field(default_factory=dict)
    """File name → bytes already read."""
    damaged: set[str] = field(default_factory=set)
    """Names of the files with lines that are no events."""

    def read(self) -> Iterator[Event]:
        """The events since the last call, file by file; a line that is still being written waits for the next call."""
        for path in sorted(self.folder.glob("*.jsonl")):
            # In bytes, so that an offset is exact; text mode allows no `tell` while it iterates.
            with path.open("rb") as file:
                file.seek(self.offsets.get(path.name, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self.offsets[path.name] = self.offsets.get(path.name, 0) + len(line)
                    # Half a line is of a step that was killed or a disk that was full.
                    if (event := _event(line)) is None:
                        self.damaged.add(path.name)
                    else:
                        yield event


_CONTENT = {
    "metrics": {"values", "at"},
    "params": {"values"},
    "tags": {"values"},
    "file": {"path", "folder"},
    "image": {"path", "key", "at"},
    "data": {"source", "digest", "num_images", "classes"},
    "progress": {"done", "total", "unit", "note"},
    "started": set(),
    "waiting": {"message", "seconds"},
    "finished": {"summary", "details"},
    "failed": {"message", "exit_code", "trace"},
}
"""Kind of event → what it has beside kind, step and time."""


_SUM = b', "crc32": "'


def _summed(event: bytes) -> bytes:
    """An event, a JSON object, with the sum of its bytes as its last entry: a flipped bit is no other figure."""
    return event[:-1] + _SUM + b'%08x"}' % zlib.crc32(event)


def _event(line: bytes) -> Event | None:
    """The event in a line; None if it is none, or was changed. One that a version before 0.3 wrote has no sum."""
    event, has_sum, _ = line.rstrip(b"\n").rpartition(_SUM)
    if has_sum and _summed(event + b"}") != line.rstrip(b"\n"):
        return None
    try:
        found = json.loads(event + b"}" if has_sum else line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("kind"), str):
        return None
    needed = _CONTENT.get(found["kind"], set()) | {"step", "time"}
    # Without a sum, nothing more: a bit may have flipped in the name of the sum.
    is_whole = needed <= set(found) and (has_sum or set(found) <= needed | {"kind", "notes"})
    return found if is_whole and isinstance(found.get("values", {}), dict) else None


def end_lines(folder: Path) -> None:
    """End the last line of each file in a spool that no process writes any more, so that it is read, or counts as
    damaged."""
    for path in folder.glob("*.jsonl"):
        file = os.open(path, os.O_RDWR | os.O_APPEND)
        try:
            _end_line(file)
        finally:
            os.close(file)


def _end_line(file: int) -> None:
    size = os.fstat(file).st_size
    if size and os.pread(file, 1, size - 1) != b"\n":
        os.write(file, b"\n")
