"""Table of predictions at the end of `gapgate predict`."""

from __future__ import annotations

from collections import Counter

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cli.terminal.console import Console
from gapgate.text import percent, printable
from serving.client.prediction import Row

HEAD = 20
"""Most images that the table shows."""
_ERRORS = 10
"""Most errors that are shown."""
_BESIDE_FILE = 45
"""Columns of the terminal for the cells beside the file's name."""


class Summary:
    """Tables of predictions: a row for each image; of more than `HEAD` images the first ones, and counts by class."""

    def __init__(self) -> None:
        self.num_images = 0
        self.num_errors = 0
        self._head: list[Row] = []
        self._errors: list[Row] = []
        self._classes: Counter[str] = Counter()
        self._sources: dict[tuple[str, str, str], None] = {}

    def write(self, rows: list[Row]) -> None:
        """Add rows of predictions."""
        answered = [row for row in rows if not row.error]
        failed = [row for row in rows if row.error]
        self.num_images += len(rows)
        self.num_errors += len(failed)
        self._head += answered[: HEAD - len(self._head)]
        self._errors += failed[: _ERRORS - len(self._errors)]
        self._classes.update(row.class_name for row in answered)
        # A dict as an ordered set: behind --url the model may change in the middle of the work.
        self._sources |= dict.fromkeys((row.model, row.version, row.receipt) for row in answered)

    def show(self, console: Console, seconds: float) -> None:
        """Print the tables, the errors, the models that answered, and the rate in images/s."""
        if self._head:
            console.print(self._images(max(20, console.width - _BESIDE_FILE)))
        if (rest := self.num_images - self.num_errors - len(self._head)) > 0:
            console.print(f"[dim]… and {rest:,} more[/]\n", highlight=False)
            console.print(self._counts())
        if self.num_errors:
            console.print(f"\n[red]no answer to {self.num_errors:,} of {self.num_images:,}:[/]", highlight=False)
            for row in self._errors:
                # In a pipe each error stays one line, whatever its length.
                console.print(Text(printable(f"  {row.file}: {row.error}")), soft_wrap=not console.is_terminal)
            if self.num_errors > len(self._errors):
                console.print(f"  [dim]… and {self.num_errors - len(self._errors):,} more[/]", highlight=False)
        console.print()
        for model, version, receipt in self._sources:
            console.print(f"[bold]{escape(model)} version {version}[/]  receipt {receipt[:19]}", highlight=False)
        # With few images the time is mostly that of loading the model.
        rate = f", {self.num_images / seconds:,.0f} a second" if self.num_images >= 100 else ""
        images = f"{self.num_images:,} image{'s' * (self.num_images != 1)}"
        console.print(f"{images} in {seconds:.1f} s{rate}", highlight=False)

    def _images(self, file_width: int) -> Table:
        has_rivals = any(len(row.probabilities) > 1 for row in self._head)
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("file")
        table.add_column("class")
        table.add_column("confidence", justify="right")
        if has_rivals:
            table.add_column("second class")
            table.add_column("", justify="right")
        for row in self._head:
            ranked = list(row.probabilities.items())[: 1 + has_rivals]
            cells = [cell for name, value in ranked for cell in (Text(printable(name)), Text(percent(value)))]
            for cell in cells[2:]:
                cell.stylize("dim")
            table.add_row(Text(_end_of(printable(row.file), file_width)), *cells)
        return table

    def _counts(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("class")
        table.add_column("images", justify="right")
        table.add_column("share", justify="right")
        total = sum(self._classes.values())
        for name, count in sorted(self._classes.items(), key=lambda item: (-item[1], item[0])):
            table.add_row(Text(printable(name)), f"{count:,}", percent(count / total))
        return table


def _end_of(name: str, width: int) -> str:
    """The last `width` characters of a path, where files of one folder differ."""
    return name if len(name) <= width else "…" + name[1 - width :]
