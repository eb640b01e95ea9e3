"""`gapgate data`: pin the workspace's data set, compare it with the pin, and restore it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cli.options import LabelColumn, PathColumn, with_columns
from cli.terminal.console import Console
from gapgate.settings.sections import Reading
from gapgate.text import printable
from pipelines.settings import settings_here

if TYPE_CHECKING:
    from components.platform.data.dvc_hashes import Difference

app = typer.Typer(no_args_is_help=True, help="The data set that data.dvc pins.")
_ROOT = Path()
_SHOWN = 10
"""Names that `status` lists of each kind."""
_Force = Annotated[bool, typer.Option("--force", help="Delete also files of data/ that are kept nowhere else.")]


@app.command()
def add(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder, a file, `digits` or `shapes`.")],
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    force: _Force = False,
) -> None:
    """Copy a source to data/ and pin it in data.dvc."""
    from components.platform.data import dvc_workspace

    console = Console(soft_wrap=True)
    reading = _reading(path_column, label_column)
    tell = partial(_print_left_out, console)
    pin = dvc_workspace.add(source, _ROOT, reading=reading, tell=tell, force=force)
    console.print(f"data/ holds {pin.num_files:,} files ({pin.size_bytes:,} bytes), DVC hash {pin.hash}")
    console.print("commit the pin:  git add data.dvc .gitignore && git commit -m 'Pin the data set'")


@app.command()
def restore(force: _Force = False) -> None:
    """Bring data/ back to exactly what data.dvc pins."""
    from components.platform.data import dvc_workspace

    pin = dvc_workspace.restore(_ROOT, force=force)
    Console(soft_wrap=True).print(f"data/ is as pinned: {pin.num_files:,} files, DVC hash {pin.hash}")


@app.command()
def status() -> None:
    """Compare data/ with its pin; exit code 1 when they differ."""
    from components.platform.data import dvc_workspace

    found = dvc_workspace.status(_ROOT)
    console = Console(soft_wrap=True)
    if found.pin is None:
        console.print("data.dvc is not there; pin data with `gapgate data add FOLDER`")
    elif not found.hash:
        console.print(f"data/ is missing, pinned is {found.pin.hash}; `gapgate data restore` brings it back")
    elif found.is_dirty:
        console.print(f"data/ differs: it has {found.hash}, pinned is {found.pin.hash}")
        _print_difference(console, found.difference)
        console.print("`gapgate data add data` pins it as it is, `gapgate data restore` brings the pinned files back")
    else:
        console.print(f"data/ is as pinned: DVC hash {found.pin.hash}")
        return
    raise typer.Exit(1)


@app.command()
def show(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A folder, a file, `digits` or `shapes`; by default the pinned data."),
    ] = "",
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
) -> None:
    """List classes and their images, as the pipeline will read them."""
    import tempfile
    from collections import Counter

    from components.platform.data import dvc_data, dvc_workspace, source_files
    from gapgate.data.sources import open_source
    from gapgate.data.splits import SPLIT_NAMES
    from gapgate.errors import DataError

    reading = _reading(path_column, label_column)
    left_out: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = _ROOT / "data"
        # Staged as ingest does it, so that hidden files are left out here too.
        if source:
            folder = Path(scratch, "files")
            folder.mkdir()
            left_out = dvc_data.stage(source, folder, link=True, reading=reading)
        elif not folder.exists():
            dvc_workspace.restore(_ROOT)
        try:
            opened = open_source(folder, Path(scratch), reading)
        except DataError as error:
            raise DataError(source_files.as_named(str(error), folder, source or str(folder))) from None
        counts = Counter((record.label, record.split or "all") for record in opened.records())
    splits = [split for split in ("all", *SPLIT_NAMES) if any(split == found for _, found in counts)]
    table = Table("class", *splits, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for label, name in enumerate(opened.class_names):
        table.add_row(name, *(f"{counts[label, split]:,}" for split in splits))
    console = Console()
    console.print(table)
    for line in opened.notes:
        console.print(escape(line), soft_wrap=True, highlight=False)
    _print_left_out(console, left_out)


def _print_difference(console: Console, difference: Difference | None) -> None:
    if difference is None:
        console.print("DVC's cache has no list of the pinned files to compare with; `dvc fetch` gets it")
        return
    for kind in ("added", "changed", "gone"):
        names: tuple[str, ...] = getattr(difference, kind)
        for name in names[:_SHOWN]:
            console.print(escape(f"{kind:<7}  {printable(name)}"), highlight=False)
        if len(names) > _SHOWN:
            console.print(f"{kind:<7}  {len(names) - _SHOWN:,} more", highlight=False)


def _print_left_out(console: Console, left_out: list[dict[str, str]]) -> None:
    for each in left_out:
        line = f"left out: {each['name']} ({each['reason']})"
        console.print(escape(line), soft_wrap=True, highlight=False)


def _reading(path_column: str | None, label_column: str | None) -> Reading:
    """Answers of `params.yaml`, where there is one, and of the options."""
    from gapgate.data.sources.classes import reading_of

    return reading_of(with_columns(settings_here(None, None), path_column, label_column).data)
