"""The log of a step that runs alone, as in a pod: lines that begin with `gapgate:`, for people and `gapgate submit`.

gapgate: train: epoch 3/20, loss 0.214, val 93.1 % █▃▁; 1 min 20 s left
gapgate: train: done in 94.2 s: 20 epochs, 12,345 parameters, val 97.2 %
gapgate: gate:   pass  max_gap_points  the gap is 1.20 points
gapgate: ingest: git cannot get data at 3f2a1b of https://git.example/a: the connection is refused; tried again in 5 s
gapgate: train: error (exit code 2): batch_size 4096 is larger than the 1,203 training images
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from components.platform.tracking.spool import Event
from gapgate.text import curve, printable

PREFIX = "gapgate:"
_EVERY_S = 10.0
_DONE = re.compile(rf"^{PREFIX} \w+: done in [\d,.]+ s: (.*)$", re.MULTILINE)
_DETAIL = re.compile(rf"^{PREFIX} \w+:  (.+)$", re.MULTILINE)
_ERROR = re.compile(rf"^{PREFIX} \w+: error \(exit code (\d+)\): (.*)$", re.MULTILINE)


class StepLog:
    """Prints the events of one step."""

    def __init__(self, step: str) -> None:
        self._step = step
        self._began_at = 0.0
        self._first: tuple[float, int] | None = None
        self._done = 0
        self._printed_at = 0.0
        self._note = ""
        self._losses: list[float] = []

    def show(self, event: Event) -> None:
        """Print what an event has to say: nothing for params, tags, files, and metrics other than the training loss."""
        if event["kind"] == "started":
            self._began_at = event["time"]
        elif event["kind"] == "progress":
            self._progress(event)
        elif event["kind"] == "metrics" and "train/loss" in event.get("values", ()):
            self._losses.append(event["values"]["train/loss"])
        elif event["kind"] == "waiting":
            fault = event["message"].partition("; ")[0]  # without the remedy
            self._print(f" {fault}; tried again in {duration(event['seconds'])}")
        elif event["kind"] == "finished":
            self._print(f" done in {event['time'] - self._began_at:,.1f} s: {event['summary']}")
            for line in [*event.get("notes", ()), *event["details"]]:
                self._print(f"  {line}")
        elif event["kind"] == "failed":
            self._print(f" error (exit code {event['exit_code']}): {event['message']}")

    def _progress(self, event: Event) -> None:
        """Print each new note, such as that of an epoch's end, and without one a line in ten seconds."""
        now, done, total = event["time"], event["done"], event["total"]
        if self._first is None or done < self._done:  # another count, such as a fold's
            self._first = (now, done)
        self._done = done
        is_news = event["note"] not in ("", self._note)
        if not is_news and now - max(self._printed_at, self._began_at) < _EVERY_S:
            return
        self._printed_at, self._note = now, event["note"] or self._note
        since, before = self._first
        counted = f"{done:,}/{total:,} {event['unit']}"
        left = f"; {duration((now - since) / (done - before) * (total - done))} left" if before < done < total else ""
        drawn = f" {curve(self._losses)}" if event["note"] and len(self._losses) > 1 else ""
        self._print(f" {event['note'] or counted}{drawn}{left}")

    def _print(self, text: str) -> None:
        # Flushed, since Python buffers what goes into a pipe, and a log is read while the step works.
        print(f"{PREFIX} {self._step}:{printable(text)}", flush=True)


@dataclass(frozen=True, slots=True)
class Ending:
    """Words of a step at its end."""

    summary: str
    details: Sequence[str]


def ending_in(log: str) -> Ending | None:
    """The end of the step in its log; None if the log has none."""
    if not (found := list(_DONE.finditer(log))):
        return None
    return Ending(found[-1][1], tuple(match[1].strip() for match in _DETAIL.finditer(log, found[-1].end())))


def error_in(log: str) -> tuple[str, int] | None:
    """Message and exit code of the error that ended the step, from its log; None if the log has none."""
    found = list(_ERROR.finditer(log))
    return (found[-1][2], int(found[-1][1])) if found else None


def duration(seconds: float) -> str:
    """A duration in two units at most: `45 s`, `1 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
