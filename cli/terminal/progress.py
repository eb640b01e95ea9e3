"""Progress of a run on the terminal: a line for each step, and a bar for a step that counts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from cli.terminal.console import Console
from components.catalog import STEPS
from components.platform.tracking.spool import Event
from gapgate.text import curve, printable

MARKS = {"": "[green]✓[/]", "pass": "[green]✓[/]", "fail": "[red]✗[/]", "undecided": "[yellow]?[/]"}
"""Verdict of a step → the mark before its line; of a step without one that it ended well."""
_WIDE = 112
"""Columns of a terminal from which a line has a bar too; the line of a training says as much in figures."""
_WIDTH = max(len(name) for name in STEPS)
_RECOUNT_EVERY_S = 10.0
"""Seconds between two lines of a count that is not the step's first, such as that of a fold."""


class TerminalDisplay:
    """Shows the events of a run: a live bar on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._is_wide = console.width >= _WIDE
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            *([BarColumn(bar_width=30)] if self._is_wide else []),
            TextColumn("{task.fields[counted]}"),
            TextColumn("{task.fields[note]}"),
            TextColumn("[cyan]{task.fields[curve]}[/]"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._running: TaskID | None = None
        self._started_at = time.time()
        self._begin_count(0.0)
        self._losses: list[float] = []

    @contextmanager
    def live(self, run: str) -> Iterator[None]:
        """Show the bar during the block; it is removed at the end, also after an error."""
        self.console.print(f"[bold]Run {run}[/]")
        with self._progress:
            yield

    def show(self, event: Event) -> None:
        """Show one event; params, tags, files, and metrics but the training loss are ignored."""
        if event["kind"] == "started":
            self._started(event)
        elif event["kind"] == "progress":
            self._counted(event)
        elif event["kind"] == "metrics" and "train/loss" in event["values"]:
            self._losses.append(event["values"]["train/loss"])
            if self._running is not None:
                self._progress.update(self._running, curve=curve(self._losses, 12 if self._is_wide else 8))
        elif event["kind"] == "finished":
            self._ended(event, MARKS[event.get("verdict", "")], escape(printable(event["summary"])))
            for line in event.get("notes", ()):
                self.note(line)
        elif event["kind"] == "failed":
            self._ended(event, "[red]✗[/]", f"[red]{escape(printable(event['message']))}[/]")

    def note(self, text: str) -> None:
        """Show a line beside the events."""
        self.console.print(f"  {escape(printable(text))}", soft_wrap=True, highlight=False)

    def _begin_count(self, wait_s: float) -> None:
        """Begin a count for lines without a bar, with at least `wait_s` seconds from one to the next."""
        self._wait_s, self._shown_at = wait_s, time.monotonic()
        self._done = self._shown_tenth = 0
        self._note = ""

    def _started(self, event: Event) -> None:
        self._started_at = event["time"]
        self._begin_count(0.0)
        self._losses.clear()
        self._running = self._progress.add_task(event["step"], total=None, counted="", note="", curve="")

    def _counted(self, event: Event) -> None:
        done, total = event["done"], event["total"]
        counted = f"{done:,}/{total:,} {event['unit']}"
        if self._running is not None:
            fields: dict[str, Any] = {"note": escape(printable(event["note"]))} if event["note"] else {}
            self._progress.update(self._running, total=total, completed=done, counted=counted, **fields)
        if self.console.is_terminal:
            return
        if event["step"] != "train":
            return
        # Without a bar, as in a CI log, ten lines of a training are enough.
        if done < self._done:
            self._begin_count(_RECOUNT_EVERY_S)
        self._done, self._note = done, event["note"] or self._note
        tenth, now = 10 * done // max(total, 1), time.monotonic()
        if tenth > self._shown_tenth and now - self._shown_at >= self._wait_s:
            self._shown_tenth, self._shown_at = tenth, now
            self.console.print(f"  {event['step']:<{_WIDTH}}  {counted} {self._note}".rstrip(), highlight=False)

    def _ended(self, event: Event, mark: str, text: str) -> None:
        if self._running is not None:
            self._progress.remove_task(self._running)
            self._running = None
        seconds = event["time"] - self._started_at
        if not self.console.is_terminal:
            self.console.print(
                f"{mark} {event['step']:<{_WIDTH}} {seconds:6.1f} s  {text}", soft_wrap=True, highlight=False
            )
            return
        line = Table.grid(padding=(0, 1))
        for width in (1, _WIDTH, 8):
            line.add_column(min_width=width, justify="right" if width == 8 else "left")
        line.add_row(mark, event["step"], f"[dim]{seconds:.1f} s[/]", f" {text}")
        self.console.print(line)
