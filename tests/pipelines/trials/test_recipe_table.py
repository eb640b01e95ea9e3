"""The tables of docs/recipes.md and the recipes' heads say what was measured, which is not measured again."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from components.platform.workspace import runs_dir
from gapgate.settings import parse
from gapgate.settings.sections import Settings
from pipelines.trials.recipe_results import (
    RECIPES,
    Plan,
    ablation_plans,
    measure,
    read_results,
    read_yaml,
    recipe_plans,
)
from pipelines.trials.recipe_table import PAGE, ablation_table, head, recipes_table, replace_between


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, empty_store):
    home = tmp_path_factory.mktemp("recipes")
    shutil.copyfile(empty_store, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAPGATE_HOME", str(home))
        patch.setenv("MLFLOW_TRACKING_URI", "")  # MLflow itself sets it; this is undone
        yield


def quietly(text: str) -> None:
    """Shows nobody what is being done."""


def plan_of(**train) -> Plan:
    content = {"data": {"source": "digits"}, "train": {"architecture": "softmax", "epochs": 1} | train}
    return Plan("digits", parse(Settings, content))


@pytest.fixture(scope="module")
def row(workspace):
    *_, last = measure(plan_of(), Path(), None, quietly)
    return last


def test_a_row_holds_three_seeds_that_differ(row):
    assert [seed["seed"] for seed in row["seeds"]] == [0, 1, 2]
    assert len({seed["train_accuracy"] for seed in row["seeds"]}) == 3
    for seed in row["seeds"]:
        gap = 100 * (seed["train_accuracy"] - seed["test_accuracy"])
        assert seed["gap_points"] == pytest.approx(gap)
        assert seed["gap_low"] < gap < seed["gap_high"]
        assert seed["wall_s"] > 0


def test_a_row_is_read_back_where_nothing_has_changed(row):
    runs = len(list(runs_dir().iterdir()))
    assert list(measure(plan_of(), Path(), row, quietly)) == [row]
    assert len(list(runs_dir().iterdir())) == runs


def test_a_row_goes_on_with_the_seed_that_is_missing(row):
    *_, last = measure(plan_of(), Path(), row | {"seeds": row["seeds"][:2]}, quietly)
    without_seconds = [{name: seed[name] for name in seed if not name.endswith("_s")} for seed in last["seeds"]]
    assert without_seconds == [{name: seed[name] for name in seed if not name.endswith("_s")} for seed in row["seeds"]]


def test_a_row_of_other_code_stands_where_its_first_seed_gives_the_same_figures(row):
    assert list(measure(plan_of(), Path(), row | {"code": "another"}, quietly)) == [row]


def test_a_row_of_other_code_is_measured_again_where_its_first_seed_differs(row):
    known = row | {"code": "another", "seeds": [row["seeds"][0] | {"test_accuracy": 0.5}, *row["seeds"][1:]]}
    *_, last = measure(plan_of(), Path(), known, quietly)
    assert last["code"] == row["code"]
    assert [seed["test_accuracy"] for seed in last["seeds"]] == [seed["test_accuracy"] for seed in row["seeds"]]


@pytest.mark.parametrize("name", ["settings", "data"])
def test_a_row_of_something_else_is_measured_again(row, name):
    rows = measure(plan_of(), Path(), row | {name: "another"}, quietly)
    assert len(next(rows)["seeds"]) == 1


def test_another_name_in_the_registry_is_no_other_row(row):
    plan = plan_of()
    renamed = plan.settings.model_copy(
        update={"registry": plan.settings.registry.model_copy(update={"model_name": "x"})}
    )
    assert list(measure(replace(plan, settings=renamed), Path(), row, quietly)) == [row]


def test_the_page_of_recipes_shows_what_was_measured():
    content = PAGE.read_text()
    for name, table in (("recipes", recipes_table), ("ablation", ablation_table)):
        shown = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", content, re.DOTALL)
        assert shown is not None
        assert shown[1] == table(read_results())


@pytest.mark.parametrize("name", read_yaml("rows.yaml"))
def test_a_recipes_head_shows_what_was_measured(name):
    expected = head(name, read_yaml("rows.yaml")[name], read_results().get(name))
    assert (RECIPES / f"{name}.yaml").read_text().startswith(expected + "\n")


def test_results_belong_to_rows_that_there_are():
    names = {plan.name for plan in (*recipe_plans(), *ablation_plans())}
    assert set(read_results()) <= names
    assert names >= {path.stem for path in RECIPES.glob("*.yaml")}


def test_only_what_stands_between_the_marks_is_replaced(tmp_path):
    file = tmp_path / "page.md"
    file.write_text("before\n<!-- a -->\nold\n<!-- /a -->\nafter\n")
    replace_between(file, "a", "new\\1\nlines")
    assert file.read_text() == "before\n<!-- a -->\nnew\\1\nlines\n<!-- /a -->\nafter\n"
