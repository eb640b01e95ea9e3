"""The recipes' results for people: the two tables of docs/recipes.md, and the comment at each recipe's head."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from gapgate.text import number
from pipelines.trials.recipe_results import RECIPES, ROOT, SEEDS, Row, ablation_plans, read_yaml, recipe

PAGE = ROOT / "docs" / "recipes.md"
_HEAD = re.compile(r"\A(#.*\n)*\n*")


def write(results: Mapping[str, Row]) -> None:
    """Write both tables into docs/recipes.md, and the head of every recipe that was measured."""
    replace_between(PAGE, "recipes", recipes_table(results))
    replace_between(PAGE, "ablation", ablation_table(results))
    for name, entry in read_yaml("rows.yaml").items():
        file = RECIPES / f"{name}.yaml"
        # Only the comment at the head is replaced; a person's lines below it stay as they are.
        settings = _HEAD.sub("", file.read_text())
        file.write_text(f"{head(name, entry, results.get(name))}\n{settings}")


def recipes_table(results: Mapping[str, Row]) -> str:
    """The table of recipes, as Markdown."""
    lines = [
        "| recipe | system | tutorial | test accuracy | train accuracy | gap, points | gate | training | improved |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in read_yaml("rows.yaml").items():
        cells = [f"[{name}](../recipes/{name}.yaml)", entry["system"], entry.get("reported", "")]
        row, better = results.get(name), entry.get("improved", "")
        cells += [*_figures(row), _cost(row)] if row else ["not measured", "", "", "", ""]
        cells.append(
            f"{better}: {_percent(results[better], 'test')}, {_gap(results[better])}" if better in results else ""
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _legend(results)])


def ablation_table(results: Mapping[str, Row]) -> str:
    """The table of the ablation, as Markdown."""
    lines = [
        "| remedy | test accuracy | train accuracy | gap, points | gate | calibration error | epochs |",
        "|---|---|---|---|---|---|---|",
    ]
    for plan in ablation_plans():
        if row := results.get(plan.name):
            epochs = sorted({seed["epochs"] for seed in row["seeds"]})
            span = f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
            ece = _spread([seed["ece"] for seed in row["seeds"]], "{:.3f}")
            lines.append(f"| {' | '.join([plan.name.removeprefix('ablation/'), *_figures(row), ece, span])} |")
    return "\n".join([*lines, "", read_yaml("ablation.yaml")["legend"]])


def head(name: str, entry: Mapping[str, str], row: Row | None) -> str:
    """The comment at the head of a recipe file."""
    source = recipe(name).data.source
    where = "" if source == "shapes" else f" path/to/{source}"
    lines = [f"{name}: {entry['system']}", f"gapgate run{where} --params recipes/{name}.yaml"]
    if row:
        test, train, gap, gate = _figures(row)
        lines.append(f"test {test}, train {train}, gap {gap} points, gate: {gate}; {len(row['seeds'])} seeds")
        lines.append(f"{_cost(row)}, on {row['machine']}")
    if reported := entry.get("reported"):
        lines.append(f"the tutorial's figure: {reported}")
    return "".join(f"# {line}\n" for line in lines)


def replace_between(file: Path, name: str, text: str) -> None:
    """Put `text` between the comments `<!-- NAME -->` and `<!-- /NAME -->` of a Markdown file."""
    content = file.read_text()
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    file.write_text(marked.sub(lambda match: f"{match[1]}{text}\n{match[2]}", content))


def _figures(row: Row) -> list[str]:
    """Four table cells over the seeds: test accuracy, train accuracy, gap and verdict."""
    verdicts = [seed["verdict"] for seed in row["seeds"]]
    counts = {verdict: verdicts.count(verdict) for verdict in verdicts}
    gate = verdicts[0] if len(counts) == 1 else ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return [_percent(row, "test"), _percent(row, "train"), _gap(row), gate]


def _percent(row: Row, split: str) -> str:
    return _spread([100 * seed[f"{split}_accuracy"] for seed in row["seeds"]], "{:.2f}") + " %"


def _gap(row: Row) -> str:
    """Mean gap in points, with the lowest and the highest end of the seeds' intervals."""
    seeds = row["seeds"]
    low, high = min(seed["gap_low"] for seed in seeds), max(seed["gap_high"] for seed in seeds)
    return f"{number(fmean(seed['gap_points'] for seed in seeds))} ({number(low)} to {number(high)})"


def _cost(row: Row) -> str:
    """Mean seconds and images/s of a training, over the seeds that were not interrupted."""
    rate = _mean(row["seeds"], "images_per_s")
    seconds = _mean(row["seeds"], "wall_s")
    return f"{f'{seconds:,.0f} s, ' if seconds else ''}{rate:,.0f} images/s"


def _mean(seeds: Sequence[Mapping[str, Any]], name: str) -> float:
    known = [seed[name] for seed in seeds if seed[name] is not None]
    return fmean(known) if known else 0.0


def _spread(values: Sequence[float], form: str) -> str:
    text = form.format(fmean(values))
    return f"{text} ± {form.format(stdev(values))}" if len(values) > 1 else text


def _legend(results: Mapping[str, Row]) -> str:
    machines = sorted({results[name]["machine"] for name in read_yaml("rows.yaml") if name in results})
    return (
        f"Mean ± standard deviation of {len(SEEDS)} seeds; of the gap's 95 % intervals the lowest and the highest end. "
        "A tenth of the training images is held out, to select by. "
        f"Measured on {'; '.join(machines)}."
    )
