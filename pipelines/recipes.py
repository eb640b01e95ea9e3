"""The recipes and the ablation: every row measured with three seeds, kept in `recipes/table/results.json`, and shown in
the README and at each recipe's head.

A row whose settings, code and data are what they were is read back, not run again.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from components.platform.data import dvc_hash
from gapgate import artifacts
from gapgate.errors import DataError, GapgateError
from gapgate.settings import Settings, load, parse
from gapgate.sources import BUILTINS
from pipelines.code_digest import code_digest
from pipelines.trials import Trial, figures_digest, run_trial

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "recipes"
RESULTS = RECIPES / "table" / "results.json"
SEEDS = (0, 1, 2)
CODE = tuple(f"gapgate.{name}" for name in ("preprocess", "augmentation", "training", "predictions", "gap", "gate"))
"""What decides on a row's figures, with all that it imports."""

Row = dict[str, Any]
"""`settings`, `code` and `data` say what the row belongs to; `seeds` holds the figures of each seed, `machine` where
they were measured."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A row that should be there."""

    name: str
    """Of the recipe, or `ablation/<remedy>`."""
    settings: Settings


def recipe(name: str) -> Settings:
    """The settings of `recipes/<name>.yaml`."""
    return load(RECIPES / f"{name}.yaml")


def recipe_plans() -> list[Plan]:
    """The rows of the table of recipes, in its order."""
    return [Plan(name, recipe(name)) for name in read_yaml("rows.yaml")]


def ablation_plans() -> list[Plan]:
    """The rows of the ablation: each remedy alone, then all together."""
    content = read_yaml("ablation.yaml")
    base = _merged(recipe(content["base"]).model_dump(mode="json"), content["settings"])
    together: dict[str, Any] = {}
    plans = []
    for name, change in content["remedies"].items():
        plans.append(Plan(f"ablation/{name}", parse(Settings, _merged(base, change))))
        together = _merged(together, change)
    return [*plans, Plan("ablation/all together", parse(Settings, _merged(base, together)))]


def read_yaml(name: str) -> Any:
    """A file of `recipes/table/`."""
    return yaml.safe_load((RECIPES / "table" / name).read_text())


def read_results() -> dict[str, Row]:
    """Row name → row, as they were measured last."""
    found: dict[str, Row] = artifacts.read_json(RESULTS) if RESULTS.exists() else {}
    return found


def measure(plan: Plan, data: Path, known: Row | None, console: Console) -> Iterator[Row]:
    """The row after each of its seeds; at once, and once, where it is known and nothing has changed.

    Args:
        data: the folder in which the recipe's `data.source` is found, unless it is a built-in data set.

    Raises:
        DataError: the data are not there.
    """
    settings = _with_source(plan.settings, data)
    row: Row = {
        "settings": figures_digest(plan.settings),
        "code": code_digest(*CODE),
        "data": _hash(settings.data.source),
        "seeds": [],
    }
    if known and all(known[name] == row[name] for name in ("settings", "code", "data")):
        row = known
        yield row
    for seed in SEEDS[len(row["seeds"]) :]:
        train = settings.train.model_copy(update={"seed": seed})
        with console.status(f"{plan.name}, seed {seed}") as status:
            trial = run_trial(
                settings.model_copy(update={"train": train}),
                watch=lambda text, seed=seed: status.update(f"{plan.name}, seed {seed}: {text}"),  # type: ignore[misc]
            )
        row["seeds"].append(figures_of(trial, seed))
        row["machine"] = machine(trial)
        yield row


def figures_of(trial: Trial, seed: int) -> dict[str, Any]:
    """What a table shows of a trial: accuracies as fractions, the gap in points, seconds of the training."""
    evaluation = trial.evaluation
    return {
        "seed": seed,
        **{f"{split}_accuracy": evaluation["accuracy"][split]["value"] for split in ("train", "val", "test")},
        **{f"gap_{name}": evaluation["gap"][name] for name in ("points", "low", "high")},
        "ece": evaluation["calibration"]["ece"],
        "verdict": trial.verdict,
        "gap_opens_epoch": evaluation["learning_curve"]["gap_opens_epoch"],
        "epochs": len(trial.history),
        "num_parameters": evaluation["facts"]["num_parameters"],
        **trial.training,
    }


def machine(trial: Trial) -> str:
    """What a trial ran on, for people: its GPU, or threads and processor."""
    environment = trial.evaluation["facts"]["environment"]
    if environment["device"] != "cpu":
        return str(environment["device"])
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{environment['num_threads']} threads of {next(models, platform.machine())}, no GPU"


def _with_source(settings: Settings, data: Path) -> Settings:
    source = settings.data.source
    if source in BUILTINS:
        return settings
    if not (data / source).exists():
        raise DataError(f"{data / source} is not there; give the folder that holds {source} with --data")
    return settings.model_copy(update={"data": settings.data.model_copy(update={"source": str(data / source)})})


def _hash(source: str) -> str:
    """DVC's hash of the data; a built-in data set is its name, since its code is digested."""
    return source if source in BUILTINS else dvc_hash(Path(source).resolve())


def _merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in change.items():
        merged[name] = _merged(merged[name], value) if isinstance(merged.get(name), dict) else value
    return merged


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help="Rows to run; by default all of the table.", show_default=False)
    ] = None,
    data: Annotated[
        Path, typer.Option(envvar="GAPGATE_DATA", help="Folder that holds mnist/, fashion-mnist/ and cifar-10/.")
    ] = Path(),
    ablation: Annotated[bool, typer.Option("--ablation", help="The ablation instead of the recipes.")] = False,
) -> None:
    """Measure what has changed, then write the README's tables and the recipes' heads."""
    from pipelines.recipe_table import write

    console = Console()
    plans = {plan.name: plan for plan in (ablation_plans() if ablation else recipe_plans())}
    if unknown := set(names or ()) - set(plans):
        raise typer.BadParameter(f"no row {', '.join(sorted(unknown))}; one of {', '.join(plans)}")
    results = read_results()
    for name in names or plans:
        try:
            for row in measure(plans[name], data, results.get(name), console):
                results[name] = row
                artifacts.write_json(RESULTS, results)
                write(results)
        except GapgateError as error:
            console.print(f"[yellow]{name}: {error}[/]", soft_wrap=True)
        else:
            console.print(f"{name}: {len(results[name]['seeds'])} seeds", highlight=False)


if __name__ == "__main__":
    typer.run(main)
