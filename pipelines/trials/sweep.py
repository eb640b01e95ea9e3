"""A grid over one or two settings: its cells, checked before the first training, and their results.

The best cell is chosen by accuracy on val alone.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from components.platform.run_context import RunContext
from components.platform.workspace import tracking_uri
from gapgate import artifacts
from gapgate.errors import SettingsError
from gapgate.settings.sections import Settings
from pipelines.trials.code_digest import code_digest
from pipelines.trials.trial import Trial

MAX_AXES = 2
FIGURES = {
    "val_accuracy": "eval_val/accuracy",
    "test_accuracy": "test/accuracy",
    "train_accuracy": "eval_train/accuracy",
    "gap_points": "gap/points",
    "val_loss": "eval_val/loss",
    "test_ece": "test/ece",
}
"""Figure by which cells are compared → its metric in MLflow."""
_SECTIONS = ("data", "preprocess", "augment", "train", "evaluate")
_LARGEST_LOSS = 1e9  # takes the place of a loss that is not finite, so that `best` can compare it

Load = Callable[[Sequence[str]], Settings]
"""Function that loads the command's settings with further `NAME=VALUE` overrides."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Axis of a grid: a setting, and its values as they were typed (YAML)."""

    name: str
    values: tuple[str, ...]

    @property
    def short_name(self) -> str:
        """Name of the setting without its section."""
        return self.name.partition(".")[2]


@dataclass(slots=True)
class Cell:
    """Cell of a grid: one value of each axis, and the trials with it."""

    values: tuple[str, ...]
    settings: list[Settings]
    """Settings of each seed."""
    label: str
    """Text for people, such as `epochs=3, batch_size=32`."""
    trials: list[Trial] = field(default_factory=list)
    failure: str = ""
    """Reason why the cell cannot be trained with these values; empty if it can."""

    def mean(self, figure: str) -> float:
        """Mean over the seeds of one of `FIGURES`."""
        return statistics.fmean(figures(trial)[figure] for trial in self.trials)

    def spread(self, figure: str) -> float | None:
        """Standard deviation over the seeds of one of `FIGURES`; None if there is one seed."""
        found = [figures(trial)[figure] for trial in self.trials]
        return statistics.stdev(found) if len(found) > 1 else None

    def interval(self, figure: str) -> tuple[float, float]:
        """Interval of `val_accuracy` or `gap_points` from the evaluation, each end as the mean over the seeds."""
        found = [_interval(trial.evaluation, figure) for trial in self.trials]
        return statistics.fmean(low for low, _ in found), statistics.fmean(high for _, high in found)


@dataclass(slots=True)
class Sweep:
    """A grid with its results."""

    axes: tuple[Axis, ...]
    cells: list[Cell]
    """Cells, row by row: the last axis changes first."""
    context: RunContext
    """Run of the sweep, parent of the cells' MLflow runs; the same sweep has the same run each time."""
    notice: str = ""
    """Reason why reports have not reached the tracking server; empty if they have."""

    @property
    def num_seeds(self) -> int:
        return len(self.cells[0].settings)

    @property
    def done(self) -> list[Cell]:
        """Cells that were trained without failure."""
        return [cell for cell in self.cells if cell.trials and not cell.failure]

    @property
    def best(self) -> Cell:
        """Cell with the highest accuracy on val; of equal ones, the one with the lowest loss on val."""
        return max(self.done, key=lambda cell: (cell.mean("val_accuracy"), -cell.mean("val_loss")))

    @property
    def rivals(self) -> list[Cell]:
        """Cells whose accuracy on val is inside the interval of the best cell's, so that val cannot tell them apart."""
        low = self.best.interval("val_accuracy")[0]
        return [cell for cell in self.done if cell is not self.best and cell.mean("val_accuracy") >= low]

    def overrides(self, cell: Cell) -> list[str]:
        """Values of `--set` that give a cell's settings."""
        return [f"{axis.name}={value}" for axis, value in zip(self.axes, cell.values, strict=True)]


def plan(load: Load, overs: Sequence[str], num_seeds: int) -> Sweep:
    """The sweep for `NAME=V1,V2,…` texts; every cell's settings are checked before anything is trained.

    Raises:
        SettingsError: another form, an unknown setting or one that no figure depends on, a value that does not fit, the
            same name or value twice, or more than two axes.
    """
    axes = tuple(_axis(over, load) for over in overs)
    if not 1 <= len(axes) <= MAX_AXES:
        raise SettingsError(f"{len(axes)} times --over; name one setting or two, such as --over train.epochs=2,4")
    if len({axis.name for axis in axes}) < len(axes):
        raise SettingsError(f"--over {axes[0].name} stands twice; give all its values at once")
    if num_seeds > 1 and any(axis.name == "train.seed" for axis in axes):
        raise SettingsError("--over train.seed and --seeds both change the seed; leave one out")
    cells = [_cell(axes, values, load, num_seeds) for values in itertools.product(*(axis.values for axis in axes))]
    return Sweep(axes, cells, RunContext(_name(axes, load([]), num_seeds), load([]).tracking.experiment))


def figures(trial: Trial) -> dict[str, float]:
    """Values of `FIGURES` for a trial: accuracies as fractions, the gap in points."""
    evaluation = trial.evaluation
    found = {f"{split}_accuracy": evaluation["accuracy"][split]["value"] for split in ("train", "val", "test")}
    found |= {"gap_points": evaluation["gap"]["points"], "test_ece": evaluation["calibration"]["ece"]}
    loss = evaluation["loss"]["val"]
    return found | {"val_loss": _LARGEST_LOSS if loss is None else loss}


def _interval(evaluation: dict[str, Any], figure: str) -> tuple[float, float]:
    found = evaluation["gap"] if figure == "gap_points" else evaluation["accuracy"]["val"]
    return found["low"], found["high"]


def _axis(over: str, load: Load) -> Axis:
    name, equals, text = over.partition("=")
    section = name.strip().partition(".")[0]
    if not equals or not section:
        raise SettingsError(f"--over {over} is not NAME=V1,V2,…, such as --over train.epochs=2,4")
    if section in Settings.model_fields and section not in _SECTIONS:
        raise SettingsError(f"--over {name}: no figure depends on it; take a setting of {', '.join(_SECTIONS)}")
    axis = Axis(name.strip(), _split(text, over))
    seen: dict[str, str] = {}
    for value in axis.values:
        # Compared as settings, not as text: 1e-3 and 0.001 are one value, and would train the same cell twice.
        settings = _load(load, [f"{axis.name}={value}"]).model_dump_json()
        if settings in seen:
            raise SettingsError(f"--over {over}: {seen[settings]} and {value} are the same; leave one out")
        seen[settings] = value
    return axis


def _load(load: Load, overrides: Sequence[str]) -> Settings:
    try:
        return load(overrides)
    except SettingsError as error:
        raise SettingsError(str(error).replace("--set", "--over", 1)) from None


def _split(text: str, over: str) -> tuple[str, ...]:
    """The values of a comma-separated YAML list, each as the text that was typed."""
    try:
        # `compose` keeps the position of each value, so that its text can be cut out: `on` must not become True.
        listed = yaml.compose(f"[{text}]", yaml.SafeLoader)
    except yaml.YAMLError:
        listed = None
    if not isinstance(listed, yaml.SequenceNode):
        raise SettingsError(f"--over {over}: the values are no list; write them like 2,4,8")
    if not listed.value:
        raise SettingsError(f"--over {over} has no value; write them like 2,4,8")
    # One less, for the bracket that was put before the text.
    return tuple(text[node.start_mark.index - 1 : node.end_mark.index - 1].strip() for node in listed.value)


def _cell(axes: Sequence[Axis], values: tuple[str, ...], load: Load, num_seeds: int) -> Cell:
    overrides = [f"{axis.name}={value}" for axis, value in zip(axes, values, strict=True)]
    try:
        base = load(overrides)
    except SettingsError as error:  # `_axis` has checked each value by itself
        raise SettingsError(f"--over: {' and '.join(overrides)} do not fit each other: {error}") from None
    # A sweep with more seeds contains the trials of the one with fewer, which are then cache hits.
    seeds = range(base.train.seed, base.train.seed + num_seeds)
    settings = [base.model_copy(update={"train": base.train.model_copy(update={"seed": seed})}) for seed in seeds]
    label = ", ".join(f"{axis.short_name}={value}" for axis, value in zip(axes, values, strict=True))
    return Cell(values, settings, label)


def _name(axes: Sequence[Axis], base: Settings, num_seeds: int) -> str:
    """Name of the sweep's run, the same for the same sweep with the same code on the same tracking server."""
    content = {
        "axes": [[axis.name, *axis.values] for axis in axes],
        "settings": base.model_dump(mode="json"),
        "seeds": num_seeds,
        "code": code_digest(),
        "server": tracking_uri(),
    }
    return "sweep-" + artifacts.digest_of(content).removeprefix("sha256:")[:12]
