"""`--set`: every hyperparameter that people try on a network is one of them away."""

import json
from pathlib import Path

import pytest

from gapgate.errors import SettingsError
from gapgate.settings import load
from gapgate.training.fit import train
from tests.gapgate.digit_splits import Recorder, write_digits

ROOT = Path(__file__).parents[3]
TUTORIAL = """
augment:
  operations: [{type: rotate, max_degrees: 8}, {type: flip}]
train:
  epochs: 10
  num_threads: 1
  batch_size: 20
  accelerator: cpu
  architecture:
    - {type: conv, filters: 8}
    - {type: activation}
    - {type: pool}
    - {type: conv, filters: 16, kernel: 3}
    - {type: activation, function: gelu}
    - {type: pool, kind: max, size: 2, stride: null}
    - {type: dropout2d}
    - {type: flatten}
    - {type: dense, units: 32}
    - {type: dropout}
    - {type: dense, units: null}
"""
CONVS, ACTIVATIONS, POOLS, HIDDEN, CLASSIFIER = (0, 3), (1, 4), (2, 5), 8, 10


@pytest.fixture
def changed(tmp_path):
    """The layers of the file above after some `--set`."""
    file = tmp_path / "recipe.yaml"
    file.write_text(TUTORIAL)
    return lambda *overrides: load(file, overrides).train.architecture


@pytest.mark.parametrize(
    ("override", "places", "field", "value"),
    [
        ("conv.filters=64", CONVS, "filters", 64),
        ("conv.kernel=5", CONVS, "kernel", 5),
        ("conv.stride=2", CONVS, "stride", 2),
        ("conv.padding=valid", CONVS, "padding", "valid"),
        ("pool.kind=average", POOLS, "kind", "average"),
        ("pool.stride=1", POOLS, "stride", 1),
        ("activation.function=tanh", ACTIVATIONS, "function", "tanh"),
        ("dense.units=100", (HIDDEN,), "units", 100),
        ("dropout.probability=0.1", (9,), "probability", 0.1),
        ("dropout2d.probability=0.1", (6,), "probability", 0.1),
    ],
)
def test_a_type_names_all_layers_of_that_type_and_no_other(changed, override, places, field, value):
    before, after = changed(), changed(f"train.architecture.{override}")
    assert tuple(n for n, layers in enumerate(zip(before, after, strict=True)) if layers[0] != layers[1]) == places
    assert [getattr(after[place], field) for place in places] == [value] * len(places)


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [("epochs=3", "epochs", 3), ("optimizer=sgd", "optimizer", "sgd")],
)
def test_epochs_and_optimizer_are_one_setting_each(tmp_path, override, name, value):
    (tmp_path / "recipe.yaml").write_text(TUTORIAL)
    assert getattr(load(tmp_path / "recipe.yaml", [f"train.{override}"]).train, name) == value


@pytest.mark.parametrize("source", ["my photos #1 %20 [x]", "a: #b", "two\nlines", "'quoted #1'"])
def test_a_path_is_taken_as_it_is(tmp_path, source):
    (tmp_path / "recipe.yaml").write_text(TUTORIAL)
    if source.startswith("a:"):
        with pytest.raises(SettingsError):
            load(tmp_path / "recipe.yaml", [f"data.source={source}"])
    else:
        assert load(tmp_path / "recipe.yaml", [f"data.source={source}"]).data.source == source.strip("'")


def test_the_last_layer_keeps_one_unit_for_each_class(changed):
    assert changed("train.architecture.dense.units=100")[CLASSIFIER].units is None


def test_a_number_after_the_type_names_one_of_them(changed):
    layers = changed("train.architecture.conv.1.filters=64", "train.architecture.dense.0.units=7")
    assert [layers[place].filters for place in CONVS] == [8, 64]
    assert layers[HIDDEN].units == 7


def test_a_layer_can_be_exchanged_by_its_type(changed):
    layers = changed(
        "train.architecture.dropout2d={type: batch_norm}", "train.architecture.conv={type: conv, filters: 4}"
    )
    assert layers[6].type == "batch_norm"
    assert [layers[place].filters for place in CONVS] == [4, 4]
    one = changed("train.architecture.conv={type: conv, filters: 4}", "train.architecture.0.filters=5")
    assert [one[place].filters for place in CONVS] == [5, 4]


def test_operations_are_named_by_their_type_too():
    operations = load(ROOT / "params.yaml", ["augment.operations.rotate.max_degrees=5"]).augment.operations
    assert {operation.type: getattr(operation, "max_degrees", None) for operation in operations}["rotate"] == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.architecture.konv.kernel=5",
            "there is no konv in train.architecture, "
            "which has conv, activation, pool, dropout2d, flatten, dense, dropout",
        ),
        ("train.architecture.conv.2.kernel=5", "there is no train.architecture.conv.2; the last is "),
        ("train.architecture.11.kernel=5", "there is no train.architecture.11; the last is train.architecture.10"),
        (
            "train.architecture.conv.kernle=5",
            "train.architecture.0.kernle is not a setting; did you mean train.architecture.conv.kernel?",
        ),
        ("train.architecture.conv.kernel=0", "train.architecture.0.kernel=0 is below the limit 1; raise it"),
        ("train.architecture.pool.kind=min", "train.architecture.2.kind=min: input should be 'max' or 'average'"),
        ("train.architecture.conv=5", "train.architecture.0=5: input should be an object"),
        ("train.epochs.conv=5", "there is no conv in train.epochs=10"),
        ("train.seed.conv=5", "there is no conv in train.seed=0"),
    ],
)
def test_a_path_that_leads_nowhere_is_told_in_one_line(changed, override, message):
    with pytest.raises(SettingsError) as caught:
        changed(override)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("preset", ["tutorial", "torchvision/resnet18", None])
def test_the_layers_of_a_preset_cannot_be_set_and_the_error_says_what_to_do(preset):
    first = [f"train.architecture={preset}"] if preset else []
    message = (
        f"--set train.architecture.conv.kernel=5: train.architecture={preset or 'auto'} names a network whose layers "
        "cannot be set; give a list of layers, as recipes/ do"
    )
    with pytest.raises(SettingsError) as caught:
        load(None, [*first, "train.architecture.conv.kernel=5"])
    assert str(caught.value) == message


def test_an_operation_of_an_empty_list_is_told():
    with pytest.raises(SettingsError, match=r"there is no rotate in augment\.operations, which is empty"):
        load(None, ["augment.operations=[]", "augment.operations.rotate.max_degrees=5"])


def test_units_of_a_network_with_a_classifier_alone_are_told():
    softmax = "train.architecture=[{type: flatten}, {type: dense}]"
    with pytest.raises(SettingsError, match=r"every dense layer here has one unit for each class; put a dense layer"):
        load(None, [softmax, "train.architecture.dense.units=5"])


def test_a_network_with_other_kernels_pooling_and_activation_trains(tmp_path):
    (tmp_path / "recipe.yaml").write_text(TUTORIAL)
    layers = ("conv.kernel=5", "pool.kind=average", "activation.function=tanh")
    overrides = [f"train.architecture.{layer}" for layer in layers] + ["train.epochs=1"]
    settings = load(tmp_path / "recipe.yaml", overrides).train
    splits = write_digits(tmp_path / "splits", num_train=40, num_val=20)
    (tmp_path / "model").mkdir()
    train(settings, splits, (), tmp_path / "model", tmp_path / "checkpoints", Recorder())
    written = json.loads((tmp_path / "model/architecture.json").read_text())
    first = (25 * 1 + 1) * 8, (25 * 8 + 1) * 16  # 5 × 5 kernels
    assert written["num_parameters"] == sum(first) + (2 * 2 * 16 + 1) * 32 + (32 + 1) * 10
    assert [(layer["kind"]) for layer in written["layers"] if layer["type"] == "pool"] == ["average"] * 2
    assert len(json.loads((tmp_path / "model/history.json").read_text())) == 1
