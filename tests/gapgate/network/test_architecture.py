"""The arithmetic of shapes and weights, against figures worked by hand, Keras' formulae and torch itself."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gapgate.errors import SettingsError
from gapgate.network import architecture, modules
from gapgate.network.architecture import resolve, trace
from gapgate.network.layers import (
    Activation,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Dropout2d,
    Flatten,
    GlobalAveragePool,
    Pool,
)

SIZES = [(8, 8, 1), (15, 15, 3), (28, 28, 1), (47, 47, 3), (48, 48, 1), (64, 64, 3), (224, 224, 3), (20, 31, 3)]


def ending(*layers):
    return (*layers, Flatten(), Dense())


def fits(size, conv, pool):
    """Whether the kernel has a place in the padded image, and the window one in what the kernel leaves."""
    if conv.padding == "same":
        left = [math.ceil(side / conv.stride) for side in size]
    else:
        padded = [side + (0 if conv.padding == "valid" else 2 * conv.padding) for side in size]
        left = [len(range(0, side - conv.kernel + 1, conv.stride)) for side in padded]
    return min(left) >= pool.size


@pytest.mark.parametrize(
    ("size_px", "kernel", "stride", "padding", "expected"),
    [
        (6, 3, 1, "valid", 4),  # (N − f) / s + 1
        (7, 3, 2, "valid", 3),
        (8, 3, 2, "valid", 3),  # rounded down
        (6, 3, 1, 1, 6),  # (N + 2p − f) / s + 1
        (5, 5, 1, 2, 5),
        (7, 3, 2, "same", 4),  # ceil(N / s)
        (8, 4, 1, "same", 8),
        (2, 5, 1, "same", 2),
        (9, 1, 3, "same", 3),
    ],
)
def test_a_convolution_gives_the_size_worked_by_hand(size_px, kernel, stride, padding, expected):
    layers = ending(Conv(filters=5, kernel=kernel, stride=stride, padding=padding))
    assert trace(layers, (size_px, size_px, 3), 2)[0].output == (5, expected, expected)


def test_the_tutorial_network_has_as_many_weights_as_in_keras():
    layers = resolve("tutorial", (28, 28, 1), 10)
    by_hand = 32 * (9 + 1) + 64 * (9 * 32 + 1) + 128 * (7 * 7 * 64 + 1) + 10 * (128 + 1)
    assert sum(layer.num_weights for layer in trace(layers, (28, 28, 1), 10)) == by_hand == 421_642


@pytest.mark.parametrize("name", architecture.PRESETS)
@pytest.mark.parametrize("image_shape", SIZES, ids=str)
def test_every_preset_is_traced_as_torch_computes_it(name, image_shape):
    layers = resolve(name, image_shape, 7)
    traced = trace(layers, image_shape, 7)
    model = modules.build(layers, image_shape, 7)
    height, width, channels = image_shape
    assert model.eval()(torch.zeros(2, channels, height, width)).shape == (2, 7)
    assert sum(weight.numel() for weight in model.parameters()) == sum(layer.num_weights for layer in traced)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kernel=st.integers(1, 6),
    stride=st.integers(1, 4),
    padding=st.one_of(st.sampled_from(["same", "valid"]), st.integers(0, 3)),
    pool=st.integers(1, 3),
    pool_stride=st.one_of(st.none(), st.integers(1, 3)),
)
def test_any_convolution_and_pool_that_fit_are_traced_as_torch_computes_them(
    size, kernel, stride, padding, pool, pool_stride
):
    conv = Conv(filters=2, kernel=kernel, stride=stride, padding=padding)
    layers = ending(conv, Pool(size=pool, stride=pool_stride))
    if not fits(size, conv, layers[1]):
        with pytest.raises(SettingsError, match="does not fit"):
            trace(layers, (*size, 1), 3)
        return
    traced = trace(layers, (*size, 1), 3)
    if padding == "same":
        assert traced[0].output == (2, *(math.ceil(side / stride) for side in size))
    built = list(modules.build(layers, (*size, 1), 3))
    flatten = next(place for place, module in enumerate(built) if isinstance(module, torch.nn.Flatten))
    assert torch.nn.Sequential(*built[:flatten])(torch.zeros(1, 1, *size)).shape[1:] == traced[1].output


def test_resolve_fills_in_the_units_of_the_last_layer():
    assert resolve((Flatten(), Dense()), (8, 8, 1), 4) == (Flatten(), Dense(units=4))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            ending(Conv(filters=2, kernel=5, padding="valid")),
            "train.architecture.0: a 5×5 kernel does not fit its 4×4 input; use padding: same or drop a pool",
        ),
        (
            ending(Pool(), Conv(filters=2, kernel=5, padding=1)),
            "train.architecture.1: a 5×5 kernel does not fit its 2×2 input padded by 1; "
            "use padding: same or drop a pool",
        ),
        (
            ending(Pool(), Pool(), Pool()),
            "train.architecture.2: a 2×2 pool does not fit its 1×1 input; drop it or a pool before",
        ),
        (
            (Dense(units=5), Dense()),
            "train.architecture.0: dense needs flat features but gets 3 feature maps of 4×4; put flatten before it",
        ),
        (
            (Flatten(), Conv(filters=2), Dense()),
            "train.architecture.1: conv needs feature maps but gets 48 features; move it before flatten",
        ),
        (
            (Flatten(), GlobalAveragePool(), Dense()),
            "train.architecture.1: global average pool needs feature maps but gets 48 features; move it before flatten",
        ),
        (
            (GlobalAveragePool(), Dropout2d(), Dense()),
            "train.architecture.1: dropout2d needs feature maps but gets 3 features; move it before flatten",
        ),
        (
            (Flatten(), Dense(units=7)),
            "train.architecture.1: the network ends with 7 features for 10 classes; end with dense",
        ),
        (
            (Conv(filters=10),),
            "train.architecture.0: the network ends with 10 feature maps of 4×4 for 10 classes; "
            "end with flatten and dense",
        ),
        (
            (Flatten(), Dense(units=30_000_000), Dense()),
            "train.architecture.1: 1,470,000,000 weights exceed the limit 1,000,000,000; "
            "lower its units or filters, or pool more before it",
        ),
    ],
)
def test_a_layer_that_does_not_fit_is_named_by_its_path_with_the_remedy(layers, message):
    with pytest.raises(SettingsError) as caught:
        resolve(layers, (4, 4, 3), 10)
    assert str(caught.value) == message


def test_an_unknown_preset_lists_the_presets():
    with pytest.raises(SettingsError, match=r"train\.architecture=tiny .* small, tutorial, dense, softmax"):
        resolve("tiny", (8, 8, 1), 10)


def test_a_torchvision_name_has_no_layers_of_ours():
    assert resolve("torchvision/resnet18", (64, 64, 3), 10) == ()
    assert architecture.torchvision_name("torchvision/resnet18") == "resnet18"
    assert architecture.torchvision_name("small") is None


@pytest.mark.parametrize("name", ["torchvision/", "torchvision", "torchvision/Res Net", "torchvision/a/b"])
def test_a_malformed_torchvision_name_is_refused(name):
    with pytest.raises(SettingsError, match="write it like torchvision/resnet18"):
        resolve(name, (64, 64, 3), 10)


def test_layers_are_named_readably():
    layers = (
        Conv(filters=32),
        Conv(filters=4, kernel=5, stride=2, padding=1),
        BatchNorm(),
        Activation(function="leaky_relu"),
        Pool(),
        Pool(kind="average", size=3, stride=2),
        Dropout2d(),
        GlobalAveragePool(),
        Dropout(),
        Dense(),
    )
    assert [layer.name for layer in trace(layers, (28, 28, 1), 10)] == [
        "conv 32 3×3 same",
        "conv 4 5×5 padding 1 stride 2",
        "batch norm",
        "leaky relu",
        "max pool 2×2",
        "average pool 3×3 stride 2",
        "dropout2d 0.2",
        "global average pool",
        "dropout 0.5",
        "dense 10",
    ]
