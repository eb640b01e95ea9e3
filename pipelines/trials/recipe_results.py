"""The recipes and the ablation: every row measured with three seeds, kept in `recipes/table/results.json`, and shown in
docs/recipes.md and at each recipe's head.

A row whose settings, code and data are what they were is read back, not run again. Where only the code is another, the
first seed is trained again, and the other seeds stay when its figures are the same.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.platform.data.dvc_hashes import dvc_hash
from gapgate import artifacts
from gapgate.data.sources import BUILTINS
from gapgate.errors import DataError
from gapgate.settings import load, parse
from gapgate.settings.sections import Settings
from pipelines.trials.code_digest import code_digest
from pipelines.trials.trial import Trial, figures_digest, run_trial

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"
RESULTS = RECIPES / "table" / "results.json"
SEEDS = (0, 1, 2)

Row = dict[str, Any]
"""Measured row: `settings`, `code` and `data` are digests of what it was measured with, `seeds` holds the figures of
each seed, and `machine` names the hardware."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A row of the tables, with the settings to measure it by."""

    name: str
    """Name of the recipe, or `ablation/<remedy>`."""
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
    """The content of a YAML file in `recipes/table/`."""
    return yaml.safe_load((RECIPES / "table" / name).read_text())


def read_results() -> dict[str, Row]:
    """Row name → row, as last measured."""
    found: dict[str, Row] = artifacts.read_json(RESULTS, {})
    return found


def measure(plan: Plan, data: Path, known: Row | None, watch: Callable[[str], None]) -> Iterator[Row]:
    """Measure a row and yield it after each seed; a known row of which nothing has changed is yielded once, at once.

    Args:
        data: the folder in which the recipe's `data.source` is found, unless it is a built-in data set.
        watch: called with a few words for people on the training at work.

    Raises:
        DataError: the data are not there.
    """
    settings = _with_source(plan.settings, data)
    row: Row = {
        "settings": figures_digest(plan.settings),
        "code": code_digest(),
        "data": _hash(settings.data.source),
        "seeds": [],
    }
    is_known = known is not None and known["settings"] == row["settings"] and known["data"] == row["data"]
    if known and is_known and known["code"] == row["code"]:
        row = known
        yield row
    for seed in SEEDS[len(row["seeds"]) :]:
        train = settings.train.model_copy(update={"seed": seed})
        name = f"{plan.name}, seed {seed}"
        watch(name)
        trial = run_trial(
            settings.model_copy(update={"train": train}),
            watch=lambda text, name=name: watch(f"{name}: {text}"),  # type: ignore[misc]
        )
        figures = figures_of(trial, seed)
        # A training is deterministic on one machine: equal figures show that the change of the code had no effect.
        if known and is_known and seed == SEEDS[0] and _without_seconds(known["seeds"][0]) == _without_seconds(figures):
            # The new digest is kept, and the next call is a cache hit.
            yield known | {"code": row["code"]}
            return
        row["seeds"].append(figures)
        row["machine"] = machine(trial)
        yield row


def figures_of(trial: Trial, seed: int) -> dict[str, Any]:
    """Figures of a trial for the tables: accuracies as fractions, the gap in points, the training in seconds."""
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


def _without_seconds(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a seed that do not depend on the machine's speed."""
    return {name: value for name, value in figures.items() if not name.endswith("_s")}


def machine(trial: Trial) -> str:
    """Hardware of a trial as text for people: its GPU, or threads and processor."""
    environment = trial.evaluation["facts"]["environment"]
    if environment["device"] != "cpu":
        return str(environment["device"])
    cpuinfo = Path("/proc/cpuinfo")
    # Python's platform.processor() is empty or "x86_64" on Linux; the kernel has the model's name.
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{environment['num_shards']} threads of {next(models, platform.machine())}, no GPU"


def _with_source(settings: Settings, data: Path) -> Settings:
    source = settings.data.source
    if source in BUILTINS:
        return settings
    if not (data / source).exists():
        raise DataError(f"{data / source} is not there; give the folder that holds {source} with --data")
    return settings.model_copy(update={"data": settings.data.model_copy(update={"source": str(data / source)})})


def _hash(source: str) -> str:
    """DVC's hash of the data; for a built-in data set its name, since the code that makes it is in the code digest."""
    return source if source in BUILTINS else dvc_hash(Path(source).resolve())


def _merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in change.items():
        merged[name] = _merged(merged[name], value) if isinstance(merged.get(name), dict) else value
    return merged
