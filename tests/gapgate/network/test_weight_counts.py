"""The number of learned weights, of each layer and of each recipe's network, against Keras' formulae and PyTorch."""

from math import ceil
from pathlib import Path

import pytest

from gapgate.network import modules
from gapgate.network.architecture import resolve, trace
from gapgate.network.layers import Activation, BatchNorm, Conv, Dense, Dropout2d, Flatten, Layer, Pool
from gapgate.settings import load

RECIPES = Path(__file__).parents[3] / "recipes"


def conv_weights(kernel: int, channels: int, filters: int) -> int:
    return (kernel * kernel * channels + 1) * filters


def dense_weights(features: int, units: int) -> int:
    return (features + 1) * units


def test_a_flattened_64_px_rgb_image_with_100_dense_units_has_1228800_weights_and_100_biases():
    layers = (Flatten(), Dense(units=100), Dense())
    dense = modules.build(layers, (64, 64, 3), 2)[1]
    assert 64 * 64 * 3 * 100 == dense.weight.numel() == 1_228_800
    assert dense.bias.numel() == 100
    assert trace(layers, (64, 64, 3), 2)[1].num_weights == 1_228_900


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize(("channels", "filters"), [(1, 32), (3, 6), (32, 64)])
def test_a_convolution_has_k_k_c_plus_1_weights_for_each_filter(kernel, channels, filters):
    """Whatever the image's size: its weights are shared."""
    for size_px in (8, 32):
        layers = (Conv(filters=filters, kernel=kernel), Flatten(), Dense())
        conv = modules.build(layers, (size_px, size_px, channels), 2)[0]
        counted = sum(weights.numel() for weights in conv.parameters())
        traced = trace(layers, (size_px, size_px, channels), 2)[0].num_weights
        assert traced == counted == conv_weights(kernel, channels, filters)


def test_batch_normalisation_has_4_numbers_for_each_channel_of_which_2_are_learned():
    layers = (Conv(filters=12), BatchNorm(), Flatten(), Dense())
    norm = modules.build(layers, (8, 8, 1), 2)[1]
    learned = sum(weights.numel() for weights in norm.parameters())
    running = norm.running_mean.numel() + norm.running_var.numel()
    assert trace(layers, (8, 8, 1), 2)[1].num_weights == learned == 2 * 12
    assert learned + running == 4 * 12


def test_layers_without_weights_have_none():
    layers = (Activation(), Pool(), Dropout2d(), Flatten(), Dense())
    assert [layer.num_weights for layer in trace(layers, (8, 8, 3), 2)] == [0, 0, 0, 0, dense_weights(48, 2)]


TOTALS = {
    "mnist-softmax": dense_weights(28 * 28, 10),
    "mnist-cnn": conv_weights(3, 1, 32) + dense_weights(13 * 13 * 32, 128) + dense_weights(128, 10),
    "mnist-estimator": conv_weights(5, 1, 32)
    + conv_weights(5, 32, 64)
    + dense_weights(7 * 7 * 64, 1024)
    + dense_weights(1024, 10),
    "fashion-dense": dense_weights(28 * 28, 128) + dense_weights(128, 10),
    "fashion-cnn": conv_weights(3, 1, 32)
    + conv_weights(3, 32, 64)
    + dense_weights(7 * 7 * 64, 128)
    + dense_weights(128, 10),
    "small-rgb": conv_weights(3, 3, 6) + conv_weights(3, 6, 16) + dense_weights(15 * 15 * 16, 10),
    "shapes": conv_weights(3, 3, 12)
    + conv_weights(3, 12, 24)
    + conv_weights(3, 24, 48)
    + conv_weights(3, 48, 48)
    + conv_weights(3, 48, 64)
    + dense_weights(4 * 4 * 64, 3),
}
SHAPES = {"small-rgb": ((32, 32, 3), 10), "shapes": ((128, 128, 3), 3)}
"""Image shape (height, width, channels) and classes, where they are not those of MNIST."""


def test_the_totals_are_the_numbers_that_keras_prints():
    """`model.summary()` of the same layers, by hand."""
    assert TOTALS == {
        "mnist-softmax": 7_850,
        "mnist-cnn": 320 + 692_352 + 1_290,  # 28 − 2 = 26 px, pooled to 13: 5,408 features
        "mnist-estimator": 832 + 51_264 + 3_212_288 + 10_250,
        "fashion-dense": 100_480 + 1_290,
        "fashion-cnn": 320 + 18_496 + 401_536 + 1_290,
        "small-rgb": 168 + 880 + 36_010,  # 32 px, then 30, pooled to 15: 3,600 features
        "shapes": 336 + 2_616 + 10_416 + 20_784 + 27_712 + 3_075,  # 128 px, pooled five times to 4: 1,024 features
    }


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_each_recipes_network_has_as_many_weights_as_keras_formulae_give(recipe):
    image_shape, num_classes = SHAPES.get(recipe.removesuffix("-gate"), ((28, 28, 1), 10))
    layers = resolve(load(RECIPES / f"{recipe}.yaml").train.architecture, image_shape, num_classes)
    traced = sum(layer.num_weights for layer in trace(layers, image_shape, num_classes))
    in_torch = sum(weights.numel() for weights in modules.build(layers, image_shape, num_classes).parameters())
    assert traced == in_torch == keras_total(layers, image_shape)
    assert traced == TOTALS.get(recipe, traced)


def test_every_system_of_the_tutorials_has_a_recipe():
    assert set(TOTALS) <= {path.stem for path in RECIPES.glob("*.yaml")}


def keras_total(layers: tuple[Layer, ...], image_shape: tuple[int, int, int]) -> int:
    """Trainable parameters, with the sizes ceil(N / s) for `same` and floor((N − f) / s) + 1 for everything else."""
    size_px, _, channels = image_shape
    total = 0
    for layer in layers:
        match layer:
            case Conv(filters=filters, kernel=kernel, stride=stride, padding=padding):
                total += conv_weights(kernel, channels, filters) - (0 if layer.bias else filters)
                padded_px = size_px + 2 * padding if isinstance(padding, int) else size_px
                size_px = ceil(size_px / stride) if padding == "same" else (padded_px - kernel) // stride + 1
                channels = filters
            case Pool(size=size, stride=stride):
                size_px = (size_px - size) // (stride or size) + 1
            case BatchNorm():
                total += 2 * channels
            case Flatten():
                channels *= size_px * size_px
            case Dense(units=int(units)):
                total += dense_weights(channels, units)
                channels = units
    return total
