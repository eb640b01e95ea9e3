"""The torch modules, against loops written out in numpy and against torch's own layers."""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from gapgate.errors import SettingsError
from gapgate.network import modules
from gapgate.network.architecture import resolve
from gapgate.network.layers import (
    Activation,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Dropout2d,
    Flatten,
    GlobalAveragePool,
    InvertedResidual,
    Pool,
)

ACTIVATIONS = ["relu", "leaky_relu", "sigmoid", "tanh", "gelu"]
EVERY_LAYER = (
    Conv(filters=6),
    BatchNorm(),
    Activation(),
    Pool(),
    Conv(filters=5, kernel=4, stride=2),
    Activation(function="leaky_relu"),
    Pool(kind="average", size=2, stride=1),
    Dropout2d(),
    Conv(filters=7, kernel=2, padding=1, bias=False),
    Activation(function="gelu"),
    Flatten(),
    Dense(units=11),
    BatchNorm(),
    Activation(function="tanh"),
    Dropout(),
    Dense(units=9),
    Activation(function="sigmoid"),
    Dense(),
)


def correlate(image, kernel, *, stride=1, before=0, after=0):
    """Cross-correlation of one (H, W) image, one product at a time."""
    image = np.pad(image, (before, after))
    side = (len(image) - len(kernel)) // stride + 1
    result = np.zeros((side, side))
    for row in range(side):
        for column in range(side):
            for y in range(len(kernel)):
                for x in range(len(kernel)):
                    result[row, column] += image[row * stride + y, column * stride + x] * kernel[y, x]
    return result


def conv_layer(layer, image_shape, kernel):
    """The built convolution alone (with its padding), its only kernel set to `kernel`."""
    parts = [
        part
        for name, part in modules.build((layer, Flatten(), Dense()), image_shape, 2).named_children()
        if name.startswith("0_")
    ]
    with torch.no_grad():
        parts[-1].weight.copy_(torch.tensor(kernel)[None, None])
    return nn.Sequential(*parts)


@pytest.mark.parametrize(
    ("size_px", "kernel", "stride", "before", "after"),
    [
        (6, 3, 1, 1, 1),
        (6, 3, 2, 0, 1),
        (7, 3, 2, 1, 1),
        (8, 4, 1, 1, 2),
        (5, 2, 1, 0, 1),
        (9, 5, 3, 1, 1),
        (4, 1, 2, 0, 0),
    ],
)
def test_same_padding_is_that_of_tensorflow(size_px, kernel, stride, before, after):
    """SAME of tensorflow.org/api_docs/python/tf/nn: ceil(N / s) outputs, the odd pixel of padding after."""
    rng = np.random.default_rng(0)
    weights = rng.integers(-4, 5, (kernel, kernel))
    image = rng.integers(0, 9, (size_px, size_px))
    built = conv_layer(Conv(filters=1, kernel=kernel, stride=stride), (size_px, size_px, 1), weights)
    result = built(torch.tensor(image, dtype=torch.float32)[None, None])[0, 0].detach().numpy()
    assert result.shape == (math.ceil(size_px / stride),) * 2
    np.testing.assert_array_equal(result, correlate(image, weights, stride=stride, before=before, after=after))


def test_average_pooling_and_the_global_average_are_means():
    images = torch.arange(32.0).view(1, 2, 4, 4)
    layers = (Pool(kind="average"), GlobalAveragePool(), Dense())
    pool, mean, _ = modules.build(layers, (4, 4, 2), 2)
    assert pool(images)[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert mean(images)[0].tolist() == [7.5, 23.5]


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_each_activation_is_its_formula(function):
    values = torch.linspace(-3, 3, 25)
    formula = {
        "relu": lambda x: max(x, 0),
        "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
        "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
        "tanh": math.tanh,
        "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    }[function]
    built = modules.build((Flatten(), Activation(function=function), Dense()), (5, 5, 1), 2)[1]
    torch.testing.assert_close(built(values), torch.tensor([formula(x) for x in values.tolist()]))


@pytest.mark.parametrize("function", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["max", "average"])
def test_pooling_before_the_activation_is_the_same_function_with_the_same_gradients(function, kind):
    torch.manual_seed(0)
    layers = (Conv(filters=4), Activation(function=function), Pool(kind=kind), Flatten(), Dense())
    model = modules.build(layers, (8, 8, 1), 3)
    as_written = nn.Sequential(*(part for _, part in sorted(deepcopy(model).named_children())))
    moved = [name for name, _ in model.named_children()] != [name for name, _ in sorted(model.named_children())]
    assert moved == (kind == "max" and function != "gelu")
    images = torch.randn(5, 1, 8, 8)
    losses = [functional.cross_entropy(each(images), torch.arange(5) % 3) for each in (model, as_written)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(model(images), as_written(images))
    for ours, theirs in zip(model.parameters(), as_written.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_max_pool_moves_before_every_activation_in_its_way_and_no_further():
    layers = (
        Conv(filters=2),
        BatchNorm(),
        Activation(),
        Activation(function="tanh"),
        Pool(),
        Pool(),
        Flatten(),
        Dense(),
    )
    names = " ".join(name for name, _ in modules.build(layers, (8, 8, 1), 2).named_children())
    assert names == "0_conv 1_batch_norm 4_pool 5_pool 2_activation 3_activation 6_flatten 7_dense"


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_every_layer_type_learns(memory):
    torch.manual_seed(0)
    model = modules.build(EVERY_LAYER, (12, 12, 3), 4).to(memory_format=memory)
    images = torch.randn(8, 3, 12, 12).contiguous(memory_format=memory)
    functional.cross_entropy(model(images), torch.arange(8) % 4).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights_of(model))


def weights_of(model):
    """Those that are not a bias: the gradient of a bias before batch normalisation is zero."""
    return [weight for weight in model.parameters() if weight.ndim > 1]


def test_the_global_seed_fixes_the_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([weight.flatten() for weight in modules.build(EVERY_LAYER, (12, 12, 3), 4).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_weights_start_as_he_before_a_rectifier_and_as_glorot_elsewhere():
    torch.manual_seed(0)
    layers = (Conv(filters=64, kernel=5), BatchNorm(), Pool(), Activation(), Flatten(), Dense(units=300), Dense())
    model = modules.build(layers, (8, 8, 40), 200)
    conv, hidden, head = (module for module in model if isinstance(module, nn.Conv2d | nn.Linear))
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (40 * 25)), rel=0.03)
    assert hidden.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 16 + 300)), rel=0.03)
    assert head.weight.std().item() == pytest.approx(math.sqrt(2 / (300 + 200)), rel=0.03)
    assert not any(module.bias.any() for module in (conv, hidden, head))


@pytest.mark.parametrize(("filters", "stride", "is_added"), [(6, 1, True), (7, 1, False), (6, 2, False)])
def test_the_input_of_an_inverted_residual_is_added_where_the_output_has_its_shape(filters, stride, is_added):
    layers = (InvertedResidual(filters=filters, stride=stride), Flatten(), Dense())
    (block,) = (one for one in modules.build(layers, (8, 8, 6), 3) if isinstance(one, modules.InvertedResidual))
    maps = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    block.eval()
    inner = maps
    for module in block.children():
        inner = module(inner)
    assert inner.shape == (2, filters, 8 // stride, 8 // stride)
    torch.testing.assert_close(block(maps), inner + maps if is_added else inner)


def test_a_flip_averaged_network_answers_for_the_image_and_its_mirror_image_left_to_right():
    network = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 4, 5))
    images = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    mirrored = torch.tensor(np.ascontiguousarray(images.numpy()[:, :, :, ::-1]))
    found = modules.FlipAveraged(network)(images)
    torch.testing.assert_close(found, (network(images) + network(mirrored)) / 2)
    assert not torch.allclose(found, network(images))


@settings(max_examples=20, deadline=None)
@given(probability=st.floats(0.05, 0.9), unit=st.sampled_from(["value", "map", "image"]), seed=st.integers(0, 99))
def test_dropout_zeroes_whole_units_and_scales_the_others(probability, unit, seed):
    layer = modules.Dropout(probability, unit)
    layer.generator = torch.Generator().manual_seed(seed)
    result = layer(torch.ones(40, 10, 3, 3))
    kept = result[result != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - probability)))
    axes = {"value": 4, "map": 2, "image": 1}[unit]
    by_unit = result.flatten(axes) if axes < 4 else result[..., None]
    assert torch.equal(by_unit.amin(-1), by_unit.amax(-1))
    assert torch.equal(layer.eval()(torch.ones(2, 3)), torch.ones(2, 3))


def test_dropout_zeroes_its_share():
    layer = modules.Dropout(0.3)
    layer.generator = torch.Generator().manual_seed(0)
    assert (layer(torch.ones(100_000)) == 0).float().mean().item() == pytest.approx(0.3, abs=0.006)


def test_two_threads_with_a_generator_each_repeat_their_dropout():
    torch.manual_seed(0)
    first = modules.build((Dropout(), Flatten(), Dense(units=64), Dropout(), Dense()), (8, 8, 1), 5)
    models = [first, deepcopy(first)]
    images = torch.randn(2, 32, 1, 8, 8)

    def run(seed):
        for number, model in enumerate(models):
            modules.set_generator(model, torch.Generator().manual_seed(seed + number))
        with ThreadPoolExecutor(2) as threads:
            return torch.cat(
                list(threads.map(lambda shard: torch.stack([models[shard](images[shard]) for _ in range(20)]), (0, 1)))
            )

    torch.rand(3)  # the global generator has no part in it
    expected = run(7)
    assert all(torch.equal(run(7), expected) for _ in range(3))
    assert not torch.equal(run(8), expected)


def test_normalise_divides_by_255_and_standardises_each_channel():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    mean, std = np.array([0.2, 0.4, 0.6]), np.array([0.1, 0.2, 0.3])
    result = modules.normalise(torch.tensor(images), torch.tensor(mean).float(), torch.tensor(std).float())
    expected = ((images / 255 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "channels"), [("resnet18", 1), ("mobilenet_v3_small", 3)])
def test_a_torchvision_classifier_takes_gray_and_rgb(name, channels):
    model = modules.build_torchvision(name, (32, 32, channels), 5, pretrained=False)
    images = torch.randn(2, channels, 32, 32)
    assert model(images).shape == (2, 5)
    modules.set_generator(model, torch.Generator().manual_seed(0))
    once = model(images)
    modules.set_generator(model, torch.Generator().manual_seed(0))
    assert torch.equal(model(images), once)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1"])
def test_the_head_of_pretrained_weights_is_exchanged(name):
    from torchvision import models

    trained = models.get_model(name, weights=None)  # as downloaded: 1,000 classes
    modules._replace_head(trained, 5)
    assert trained.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


class _Runs:
    """A pickle that makes a folder when it is read."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (self.place,)


@pytest.fixture
def weights_file(tmp_path, monkeypatch):
    """The place of torchvision's weights of squeezenet1_1, in an empty TORCH_HOME."""
    from torchvision import models

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    url = models.get_model_weights("squeezenet1_1").DEFAULT.url
    place = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
    place.parent.mkdir(parents=True)
    return place


def test_weights_that_would_run_code_are_refused(weights_file, tmp_path):
    torch.save({"classifier.1.bias": _Runs(str(tmp_path / "ran"))}, weights_file)
    with pytest.raises(SettingsError, match=r"the weights of squeezenet1_1 in TORCH_HOME holds more than tensors"):
        modules.build_torchvision("squeezenet1_1", (64, 64, 3), 5, pretrained=True)
    assert not (tmp_path / "ran").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_weights_of_tensors_are_taken_with_a_new_last_layer(weights_file):
    from torchvision import models

    whole = models.get_model("squeezenet1_1", weights=None)
    torch.save(whole.state_dict(), weights_file)
    model = modules.build_torchvision("squeezenet1_1", (64, 64, 3), 5, pretrained=True)
    assert torch.equal(model.network.features[0].weight, whole.features[0].weight)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


def test_stochastic_depth_of_torchvision_draws_from_the_given_generator():
    model = modules.build_torchvision("efficientnet_b0", (32, 32, 3), 5, pretrained=False)
    units = {module.unit for module in model.modules() if isinstance(module, modules.Dropout)}
    assert units == {"value", "image"}


def test_an_unknown_torchvision_name_gives_close_ones():
    with pytest.raises(SettingsError, match=r"torchvision/resnet81 is not .* try .*resnet18"):
        modules.build_torchvision("resnet81", (32, 32, 3), 5, pretrained=False)


def test_images_too_small_for_a_torchvision_network_are_refused():
    with pytest.raises(SettingsError, match=r"torchvision/alexnet does not take images of 28×28; raise"):
        modules.build_torchvision("alexnet", (28, 28, 1), 5, pretrained=False)


def test_a_preset_is_built_for_every_class_count():
    for num_classes in (2, 1000):
        model = modules.build(resolve("small", (8, 8, 1), num_classes), (8, 8, 1), num_classes)
        assert model(torch.zeros(2, 1, 8, 8)).shape == (2, num_classes)
