"""Output of a sweep on the terminal: a bar over its cells, then a table and the places of the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from cli.terminal.console import Console
from cli.terminal.run_summary import mlflow_link, relative
from pipelines.trials.sweep import Cell, Sweep
from pipelines.trials.sweep_report import shown


@contextmanager
def live(console: Console, sweep: Sweep) -> Iterator[tuple[Callable[[str], None], Callable[[Cell], None]]]:
    """Show a bar during the block; yields two functions, one for a text on the progress, one for each ended cell."""
    seeds = f" × {sweep.num_seeds} seeds" if sweep.num_seeds > 1 else ""
    console.print(f"[bold]Sweep of {len(sweep.cells)} cells{seeds}[/]")
    columns = (SpinnerColumn(), BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(sweep.cells))

        def ended(cell: Cell) -> None:
            progress.advance(task)
            console.print(_ended(cell), highlight=False, soft_wrap=True)

        yield lambda text: progress.update(task, description=escape(text)), ended


def print_summary(console: Console, sweep: Sweep, command: str) -> None:
    """Print the table, the best cell, the places of the results, and the command that runs the best cell."""
    console.print()
    console.print(_across(sweep) if len(sweep.axes) == 2 else _down(sweep))
    # Said beside the best, whose lead may be chance.
    others = "1 other is" if len(sweep.rivals) == 1 else f"{len(sweep.rivals)} others are"
    rivals = f"; {others} not clearly worse on val" if sweep.rivals else ""
    places = {
        "best on val": escape(f"{sweep.best.label}{rivals}"),
        "report": escape(relative(sweep.context.folder / "sweep.html")),
        "MLflow run": mlflow_link(sweep.context, indent=13),
        "for good": escape(command),
    }
    for name, text in places.items():
        if text:
            console.print(f"{name:<11}  {text}", soft_wrap=True, highlight=False)
    if sweep.notice:
        console.print(f"[yellow]{escape(sweep.notice)}[/]", soft_wrap=True)


def _ended(cell: Cell) -> str:
    if cell.failure:
        return f"[red]✗[/] {escape(cell.label)}: [red]{escape(cell.failure)}[/]"
    figures = f"val {shown(cell, 'val_accuracy')}, gap {shown(cell, 'gap_points')} points"
    found = " [dim](read back)[/]" if all(trial.was_cached for trial in cell.trials) else ""
    return f"[green]✓[/] {escape(cell.label)}: {figures}{found}"


def _across(sweep: Sweep) -> Table:
    """Table of accuracy on val and gap: the first setting down, the second across."""
    rows, columns = sweep.axes
    table = Table(title="accuracy on val, gap in points", title_justify="left", box=None)
    table.add_column(escape(f"{rows.name} ↓  {columns.name} →"))
    for value in columns.values:
        table.add_column(escape(value), justify="right")
    width = len(columns.values)
    for index, value in enumerate(rows.values):
        cells = sweep.cells[index * width : (index + 1) * width]
        table.add_row(escape(value), *(_short(sweep, cell, "val_accuracy", "gap_points") for cell in cells))
    return table


def _down(sweep: Sweep) -> Table:
    table = Table(box=None)
    table.add_column(escape(sweep.axes[0].name))
    figures = {"val": "val_accuracy", "gap": "gap_points", "test": "test_accuracy"}
    for heading in figures:
        table.add_column(heading, justify="right")
    for cell in sweep.cells:
        table.add_row(escape(cell.values[0]), *(_short(sweep, cell, figure) for figure in figures.values()))
    return table


def _short(sweep: Sweep, cell: Cell, *figures: str) -> str:
    if cell.failure:
        return "[red]failed[/]"
    text = ", ".join(shown(cell, figure) for figure in figures)
    return f"[bold green]{text}[/]" if cell is sweep.best else text
