"""`gapgate report` and `gapgate compare`: a run's report, and two runs side by side, as files to forward."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cli.options import argument, option, status
from gapgate.errors import storage_errors

Run = Annotated[
    str,
    argument(metavar="RUN", help="A run's name or its beginning, or a folder of artifacts; by default the newest run."),
]
Out = Annotated[Path | None, option("--out", metavar="FILE", help="File to write to.")]
Open = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]


def report(run: Run = "", out: Out = None, is_open: Open = False) -> None:
    """Write a run's report again, one file that asks nobody for anything, with its model's version and receipt."""
    from pipelines.local import reports

    with status("writing the report"):
        found = reports.find(run)
        place = out or found.folder / reports.REPORT
        with storage_errors(place):
            reports.write(found, place)
    _tell(place, is_open=is_open)


def compare(
    first: Annotated[str, argument(metavar="RUN", help="The run to compare with.")],
    second: Annotated[str, argument(metavar="RUN", help="The run that is compared with it.")],
    out: Out = None,
    is_open: Open = False,
) -> None:
    """Show two runs side by side: settings, data, figures, and the images whose answer changed."""
    from gapgate import artifacts
    from gapgate.report.comparison import render
    from pipelines.local import reports

    with status("comparing"):
        old, new = reports.find(first), reports.find(second)
        place = out or Path(f"compare-{old.name}-{new.name}.html")
        with storage_errors(place):
            artifacts.write_text(place, render(old.side(), new.side()))
    _tell(place, is_open=is_open)


def _tell(place: Path, *, is_open: bool) -> None:
    Console().print(escape(str(place)), soft_wrap=True, highlight=False)
    if is_open:
        typer.launch(place.resolve().as_uri())
