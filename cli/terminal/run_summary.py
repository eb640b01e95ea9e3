"""Summary at the end of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from cli.terminal.console import Console
from components.platform.run_context import RunContext
from components.platform.tracking import mlflow_client, mlflow_runs
from gapgate import artifacts
from gapgate.text import number, percent
from pipelines.local.result import RunResult

COLOURS = {"pass": "green", "fail": "red", "undecided": "yellow"}


def print_summary(console: Console, result: RunResult) -> None:
    """Print accuracies, gap, verdict of each check, version, places and receipt, or why the run failed; then the
    advice."""
    if "certificate" in result.outputs:
        console.print()
        console.print(_accuracies(artifacts.read_json(result.outputs["evaluation"] / "evaluation.json")))
        console.print(_checks(artifacts.read_json(result.outputs["certificate"] / "certificate.json")))
        for name, text in _places(result):
            console.print(f"{name:<7} {text}", soft_wrap=True, highlight=False)
    if result.tracking_notice:
        console.print(f"[yellow]{escape(result.tracking_notice)}[/]", soft_wrap=True)
    if result.failure:
        if result.failure.get("trace"):
            console.print(f"[red]{escape(result.failure['trace'])}[/]")
        elif result.failure["step"] == "pipeline":  # no step has printed it
            console.print(f"[red]{escape(result.failure['message'])}[/]", soft_wrap=True)
        console.print(f"the log is {relative(result.context.folder / 'log.txt')}", soft_wrap=True)
    elif result.exit_code == 3:
        verdict = artifacts.read_json(result.outputs["certificate"] / "certificate.json")["verdict"]
        console.print(f"[{COLOURS[verdict]} bold]gate {verdict}[/]: registered without alias, not packaged")
    if "certificate" in result.outputs:
        _print_advice(console, artifacts.read_json(result.outputs["certificate"] / "advice.json", []))


def _print_advice(console: Console, advice: list) -> None:  # type: ignore[type-arg]
    if not advice:
        return
    console.print("\n[bold]what now[/], the largest expected effect first")
    table = Table(box=None, pad_edge=False, show_header=False)
    for place, one in enumerate(advice, start=1):
        table.add_row(f"{place}.", f"[bold]{one['cause']}[/]", escape(one["text"]))
    console.print(table)


def relative(path: Path) -> str:
    """A path relative to the current folder if it is below it, else as it is."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def mlflow_link(context: RunContext, indent: int) -> str:
    """The run's page in MLflow, as console markup: a link of the terminal, and as text a short address of the page.
    A second line, `indent` columns in, says what serves it where no server does; empty before the first contact."""
    if not (shown := mlflow_runs.short_run_url(context)):
        return ""
    link = f"[link={mlflow_runs.run_url(context)}]{escape(shown)}[/link]"
    return link if mlflow_client.is_server() else f"{link}\n{' ' * indent}while `gapgate ui` runs"


def _accuracies(evaluation: dict) -> Table:  # type: ignore[type-arg]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "value", "95 % interval", "images"):
        table.add_column(heading, justify="left" if not heading else "right")
    is_folded = (evaluation.get("method") or {}).get("num_folds")
    names = {"test": "held-out"} if is_folded else {}
    for split in ("train", "val", "test"):
        row = evaluation["accuracy"][split]
        interval = f"{percent(row['low'])} to {percent(row['high'])}"
        table.add_row(f"{names.get(split, split)} accuracy", percent(row["value"]), interval, f"{row['num_images']:,}")
    gap = evaluation["gap"]
    table.columns[2].header = f"{percent(gap['confidence_level'], 0)} interval"
    table.add_row(
        f"[bold]gap, train − {names.get('test', 'test')}[/]",
        f"[bold]{number(gap['points'])} points[/]",
        f"{number(gap['low'])} to {number(gap['high'])}",
    )
    return table


def _checks(certificate: dict) -> Table:  # type: ignore[type-arg]
    colour = COLOURS[certificate["verdict"]]
    table = Table(box=None, pad_edge=False, show_header=False, title_justify="left", title_style="")
    table.title = f"[bold]gate: [{colour}]{certificate['verdict']}[/][/]"
    for check in certificate["checks"]:
        colour = COLOURS[check["verdict"]]
        table.add_row(f"[{colour}]{check['verdict']}[/]", check["name"], escape(check["reason"]))
    return table


def _places(result: RunResult) -> Iterator[tuple[str, str]]:
    """(name, text) of each result of the run and its place."""
    outputs = result.outputs
    registration = (
        artifacts.read_json(outputs["registration"] / "registration.json") if "registration" in outputs else {}
    )
    if registration:
        decision = result.context.decision or {"alias": "", "reason": "it is not packaged yet"}
        alias = f"[bold]{decision['alias']}[/]" if decision["alias"] else "no alias"
        version = f"{registration['name']} version {registration['version']}"
        yield "model", f"{version}, {alias}: {escape(decision['reason'])}"
    yield "report", relative(result.context.folder / "report.html")
    if link := mlflow_link(result.context, indent=8):
        yield "MLflow", link
    if "bento" in outputs:
        yield "Bento", relative(result.context.folder / "model.bento")
    if registration:
        yield "receipt", registration["receipt"]
