import warnings
from pathlib import Path

import pytest
import yaml

from gapgate.errors import SettingsError
from gapgate.settings import load
from gapgate.settings.sections import Settings

ROOT = Path(__file__).parents[3]


def test_params_yaml_names_every_setting_and_is_valid():
    written = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert {(section, name) for section in written for name in written[section]} == {
        (section, name) for section, field in Settings.model_fields.items() for name in field.annotation.model_fields
    }


def test_a_run_in_the_checkout_has_the_same_settings_as_one_elsewhere():
    assert load(ROOT / "params.yaml") == load() == Settings()


def test_a_settings_file_that_does_not_fit_is_named(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text("prepare: {split: 0.2}\ntrain: {lr: 0.1}\n")
    with pytest.raises(SettingsError, match=r"params\.yaml has prepare, which is no section .* with --params"):
        load(file)
    file.write_text("train: {lr: 0.1}\n")
    with pytest.raises(SettingsError, match=r"params\.yaml: train\.lr is not a setting; .*another tool's file\?"):
        load(file, ["train.epochs=3"])


def test_defaults_hold_where_the_file_says_nothing(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text("train: {epochs: 3}\n")
    settings = load(file)
    assert settings.train.epochs == 3
    assert settings.train.batch_size == Settings().train.batch_size


def test_overrides_reach_into_lists():
    layers = "train.architecture=[{type: conv, filters: 8}, {type: flatten}, {type: dense}]"
    settings = load(None, [layers, "train.architecture.0.filters=16"])
    assert settings.train.architecture[0].filters == 16


@pytest.mark.parametrize(("text", "value"), [("1e-3", 0.001), ("2E-4", 0.0002), ("1.5e-3", 0.0015), ("3e0", 3.0)])
def test_numbers_with_an_exponent_are_numbers(text, value):
    assert load(None, [f"train.learning_rate={text}"]).train.learning_rate == value


def test_off_is_a_word_and_false_is_not():
    assert load(None, ["train.amp=off"]).train.amp == "off"
    assert load(None, ["train.pretrained=true"]).train.pretrained is True
    with pytest.raises(SettingsError, match=r"train\.amp=false"):
        load(None, ["train.amp=false"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epochs=0", ["train.epochs=0", "below the limit 1", "raise it"]),
        ("train.epoch=3", ["train.epoch is not a setting"]),
        ("train.epochs=abc", ["train.epochs=abc", "integer"]),
        ("train.epochs=2.5", ["train.epochs=2.5", "integer"]),
        ("train=3", ["train=3", "object"]),
        ("train.architecture=[{type: conv, filters: 0}]", ["train.architecture.0.filters=0", "limit 1"]),
        ("train.architecture=[{type: konv}]", ["train.architecture.0.type=konv", "'conv'"]),
        ("augment.operations=[{type: rotate, max_degrees: 400}]", ["operations.0.max_degrees=400", "180"]),
        ("preprocess.size_px=4", ["preprocess.size_px=4", "limit 8"]),
        ("preprocess.test_fraction=0.95", ["test_fraction + val_fraction", "below 1"]),
        ("preprocess.groups=(a", ["preprocess.groups: '(a' is no regular expression", "unterminated", "mend it"]),
        (
            "preprocess.groups='a{99999999999}'",
            ["'a{99999999999}' is no regular expression", "large"],
        ),
        ("gate.max_gap_points=.nan", ["gate.max_gap_points=NaN", "finite"]),
        ("registry.model_name=a b", ["registry.model_name=a b", "pattern"]),
        ("train.epochs", ["--set train.epochs", "train.epochs=3"]),
        ("train.epochs=[", ["not YAML"]),
        ("train.architecture.9.filters=1", ["train.architecture"]),
        (
            "train.architecture=resnet18",
            ["train.architecture=resnet18 is not a preset", "finetune", "torchvision/NAME"],
        ),
        ("train.architecture=torchvision", ["write it like torchvision/resnet18"]),
    ],
)
def test_a_wrong_setting_names_its_path_value_and_limit_in_one_line(override, words):
    with pytest.raises(SettingsError) as caught:
        load(None, [override])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_an_expression_of_any_depth_and_one_that_python_warns_of_end_in_one_line_or_none():
    with pytest.raises(SettingsError, match="is no regular expression") as caught:
        load(None, [f"preprocess.groups={'(' * 5000}a{')' * 5000}"])
    assert len(str(caught.value)) < 400
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(None, ["preprocess.groups='[[:alpha:]]'"]).preprocess.groups == "[[:alpha:]]"


@pytest.mark.parametrize(
    ("content", "word"),
    [("train: [", "not YAML"), ("- a\n- b", "holds a list"), ("text", "holds a str"), ("\x00", "not YAML")],
)
def test_a_file_that_is_no_settings_file_is_named(tmp_path, content, word):
    file = tmp_path / "broken.yaml"
    file.write_text(content)
    with pytest.raises(SettingsError, match=word) as caught:
        load(file)
    assert "broken.yaml" in str(caught.value)


def test_a_settings_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"nowhere\.yaml.*--params"):
        load(tmp_path / "nowhere.yaml")


_ALIASES = "\n".join(f"  - &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 9))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("train: " + "[" * 3000, "nested too deeply"),
        ("train: " + "{a: " * 3000 + "1" + "}" * 3000, "nested too deeply"),
        (f"train:\n  architecture:\n  - &a0 [x, x]\n{_ALIASES}\n", "more than 100,000 values"),
        ("train:\n  architecture: &a [*a]\n", "more than 100,000 values"),
        (f"train: {{epochs: {'9' * 5000}}}", "4300 digits"),
        (f"train: {{epochs: 0x{'f' * 5000}}}", "4300 digits"),
        ("train: {epochs: 2026-13-45}", "month must be in 1..12"),
        ('train: {"\\e[31mx\\ny": 1}', r"train.\x1b[31mx\ny is not a setting"),
    ],
)
def test_a_hostile_settings_file_is_one_line(tmp_path, content, words):
    file = tmp_path / "params.yaml"
    file.write_text(content)
    with pytest.raises(SettingsError) as caught:
        load(file)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 3000])
def test_a_hostile_value_of_set_is_one_line(value):
    with pytest.raises(SettingsError):
        load(None, [f"train.epochs={value}"])
