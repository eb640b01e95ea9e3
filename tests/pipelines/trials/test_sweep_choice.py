"""Which cell of a sweep is the best, which ones val cannot tell from it, and what names a sweep; nothing is trained."""

import math
import statistics
from types import SimpleNamespace

import pytest

from gapgate.settings import load
from pipelines.trials import sweep as sweeps
from pipelines.trials.sweep import Axis, Cell, Sweep, figures, plan


def trial(val, loss=0.5, test=0.5, interval=None, gap=(1.0, 0.5, 1.5)):
    low, high = interval or (val - 0.05, val + 0.05)
    evaluation = {
        "accuracy": {
            "train": {"value": 0.99, "low": 0.98, "high": 1.0},
            "val": {"value": val, "low": low, "high": high},
            "test": {"value": test, "low": test - 0.01, "high": test + 0.01},
        },
        "gap": dict(zip(("points", "low", "high"), gap, strict=True)),
        "calibration": {"ece": 0.02},
        "loss": {"val": loss},
    }
    return SimpleNamespace(evaluation=evaluation)


def sweep_of(*cells, failed=()):
    """A sweep whose cells have these trials, one for each seed."""
    made = [Cell((str(at),), [None], f"epochs={at}", list(trials)) for at, trials in enumerate(cells)]
    for at in failed:
        made[at].failure = "the layers do not fit"
    return Sweep((Axis("train.epochs", tuple(str(at) for at in range(len(cells)))),), made, SimpleNamespace())


def test_the_figures_of_a_trial_are_its_evaluations_and_a_loss_that_overflowed_is_the_largest():
    assert figures(trial(0.8, 0.25, 0.7)) == {
        "train_accuracy": 0.99, "val_accuracy": 0.8, "test_accuracy": 0.7, "gap_points": 1.0, "test_ece": 0.02,
        "val_loss": 0.25,
    }  # fmt: skip
    assert figures(trial(0.8, None))["val_loss"] > 1e6


def test_the_best_cell_has_the_highest_accuracy_on_val_and_of_equal_ones_the_lowest_loss():
    assert sweep_of([trial(0.7, test=0.9)], [trial(0.8, test=0.6)]).best.label == "epochs=1"
    assert sweep_of([trial(0.8, 0.5)], [trial(0.8, 0.4)], [trial(0.8, None)]).best.label == "epochs=1"
    # Over the seeds: 0.75 against 0.8, where one seed alone has 0.9.
    assert sweep_of([trial(0.9), trial(0.6)], [trial(0.8), trial(0.8)]).best.label == "epochs=1"
    assert sweep_of([trial(0.7)], [trial(0.9)], [], failed=[1]).best.label == "epochs=0"


def test_cells_within_the_interval_of_the_best_are_its_rivals():
    found = sweep_of(
        [trial(0.7)], [trial(0.75)], [trial(0.8, interval=(0.75, 0.85))], [trial(0.77)], [trial(0.79)], failed=[4]
    )
    assert found.best.label == "epochs=2"
    assert [cell.label for cell in found.rivals] == ["epochs=1", "epochs=3"]


def test_spread_and_interval_are_over_the_seeds():
    (cell,) = sweep_of([trial(0.7, gap=(1, 0, 2)), trial(0.8, gap=(2, 1, 6)), trial(0.9, gap=(6, 2, 7))]).cells
    assert cell.mean("val_accuracy") == pytest.approx(0.8)
    assert cell.spread("val_accuracy") == pytest.approx(0.1)  # with n − 1
    assert cell.spread("gap_points") == pytest.approx(statistics.stdev([1, 2, 6]))
    assert cell.interval("gap_points") == (1, 5)
    assert cell.interval("val_accuracy") == (pytest.approx(0.75), pytest.approx(0.85))
    (single,) = sweep_of([trial(0.7)]).cells
    assert single.spread("val_accuracy") is None
    assert not math.isnan(single.mean("val_loss"))


def planned(*overs, seeds=1, settings=()):
    return plan(lambda more: load(None, [*settings, *more]), overs, seeds)


def test_seeds_count_from_that_of_the_settings():
    found = planned("train.epochs=1,2", seeds=3, settings=["train.seed=7"])
    assert found.num_seeds == 3
    assert [[one.train.seed for one in cell.settings] for cell in found.cells] == [[7, 8, 9]] * 2
    assert [cell.settings[2].train.epochs for cell in found.cells] == [1, 2]


def test_the_same_sweep_has_the_same_run_and_another_one_another(monkeypatch):
    def name(*overs, **more):
        return planned(*overs, **more).context.name

    names = [
        name("train.epochs=1,2"),
        name("train.epochs=1,3"),
        name("train.batch_size=1,2"),
        name("train.epochs=1,2", seeds=2),
        name("train.epochs=1,2", settings=["train.weight_decay=0.5"]),
    ]
    assert name("train.epochs=1,2") == names[0]
    for function in ("code_digest", "tracking_uri"):
        with monkeypatch.context() as patch:
            patch.setattr(sweeps, function, lambda: "another")
            names.append(name("train.epochs=1,2"))
    assert len(set(names)) == 7
