"""`python -m cli.recipes`: measure the recipes and the ablation where something has changed (`make recipes`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import argument
from cli.terminal.console import Console
from gapgate import artifacts
from gapgate.errors import GapgateError
from pipelines.trials.recipe_results import RESULTS, ablation_plans, measure, read_results, recipe_plans
from pipelines.trials.recipe_table import write


def main(
    names: Annotated[list[str] | None, argument(help="Rows to run; by default all of the table.")] = None,
    data: Annotated[
        Path, typer.Option(envvar="GAPGATE_DATA", help="Folder that holds mnist/, fashion-mnist/ and cifar-10/.")
    ] = Path(),
    ablation: Annotated[bool, typer.Option("--ablation", help="The ablation instead of the recipes.")] = False,
) -> None:
    """Measure what has changed, then write the tables of docs/recipes.md and the recipes' heads."""
    console = Console()
    plans = {plan.name: plan for plan in (ablation_plans() if ablation else recipe_plans())}
    if unknown := set(names or ()) - set(plans):
        raise typer.BadParameter(f"no row {', '.join(sorted(unknown))}; one of {', '.join(plans)}")
    results = read_results()
    for name in names or plans:
        try:
            with console.status(name) as status:
                for row in measure(plans[name], data, results.get(name), status.update):
                    results[name] = row
                    # After each seed: an interrupted measurement resumes with the next one.
                    artifacts.write_json(RESULTS, results)
                    write(results)
        except GapgateError as error:
            console.print(f"[yellow]{name}: {error}[/]", soft_wrap=True)
        else:
            console.print(f"{name}: {len(results[name]['seeds'])} seeds", highlight=False)


if __name__ == "__main__":
    typer.run(main)
