"""`gapgate settings`, and the words that it takes from the settings themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cli import app
from gapgate.errors import SettingsError
from gapgate.settings import load
from gapgate.settings.described import groups

ROOT = Path(__file__).parents[2]


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["settings", *arguments])
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_every_setting_of_the_file_is_listed_with_a_meaning() -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    named = {f"{section}.{name}" for section, content in params.items() for name in content}
    described = {setting.name: setting.meaning for group in groups() for setting in group.settings}
    assert named <= set(described)
    assert [name for name, meaning in described.items() if not meaning.endswith(".")] == []


def test_values_default_and_meaning_are_those_of_the_field() -> None:
    assert printed("train.weight_decay") == (
        "train The network, the optimizer and the loop. train.weight_decay number from 0 on, by default 0.01 "
        "Decoupled weight decay of weights; biases and normalisation have none."
    )
    assert "train.epochs whole number from 1 to 10,000 or auto, by default auto " in printed("train.epochs")
    assert "train.momentum number from 0 below 1, by default 0.9 " in printed("train.momentum")
    assert "preprocess.test_fraction number above 0 below 1, by default 0.25 " in printed("preprocess.test_fraction")
    assert "train.architecture.conv.filters whole number from 1 on, must be given " in printed(
        "train.architecture.conv"
    )


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("train.epoch=3", "train.epoch is not a setting; did you mean train.epochs?"),
        ("trian.epochs=3", "trian is not a setting; did you mean train?"),
        ("train.max_gap_point=3", "train.max_gap_point is not a setting; did you mean gate.max_gap_points?"),
        ("evaluate.sed=3", "evaluate.sed is not a setting; did you mean evaluate.seed?"),
        ("train.frobnicate=3", "train.frobnicate is not a setting; `gapgate settings` lists all"),
    ],
)
def test_an_unknown_setting_is_told_with_the_one_that_is_like_it(override: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=f"^{re.escape(hint)}$"):
        load(None, [override])


@pytest.mark.parametrize("name", ["trin.epochs", "train.epocs", "epocs"])
def test_a_name_that_begins_no_setting_is_an_error_with_the_one_like_it(name: str) -> None:
    with pytest.raises(SettingsError, match=f"^there is no setting {name}; did you mean train.epochs\\?$"):
        CliRunner().invoke(app, ["settings", name], catch_exceptions=False)
