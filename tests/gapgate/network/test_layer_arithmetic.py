"""Convolution, padding, stride and pooling against examples worked by hand, in PyTorch and in the exported ONNX file;
sizes against the textbooks' formulae."""

from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from gapgate.errors import SettingsError
from gapgate.network import modules
from gapgate.network.architecture import LayerShape, conv_padding, trace
from gapgate.network.export import export_onnx
from gapgate.network.layers import Activation, BatchNorm, Conv, Dense, Dropout2d, Flatten, Layer, Pool
from gapgate.onnx.classifier import Classifier

IMAGE = np.array(
    [
        [255, 255, 255, 255, 255, 255],
        [255, 255, 100, 255, 255, 255],
        [255, 100, 100, 100, 255, 255],
        [100, 100, 100, 100, 100, 255],
        [255, 255, 255, 255, 255, 255],
        [255, 255, 255, 255, 255, 255],
    ],
    np.uint8,
)
KERNEL = [[1, -1, 1], [-1, 0, -1], [1, -1, 1]]

# Each value is a sum of 8 pixels: the 4 corners of its window less the 4 neighbours of its centre. The kernel's weights
# sum to 0, so a window that lies inside the image gives −155 × (dark corners − dark neighbours), with
# 155 = 255 − 100. Row by row, dark corners − dark neighbours:
#   1 − 2    2 − 1    1 − 2    1 − 0
#   3 − 2    2 − 4    3 − 2    1 − 2
#   1 − 3    2 − 3    1 − 3    1 − 1
#   2 − 1    2 − 1    2 − 1    1 − 1
VALID = [
    [155, -155, 155, -155],
    [-155, 310, -155, 155],
    [310, 155, 310, 0],
    [-155, -155, -155, 0],
]
# Zeros around the image: a window that hangs over one side keeps weights that sum to −1 (the row 1 − 1 + 1 is outside),
# and so does one over a corner (1 − 1 + 1 − 1 + 1 is outside). The border is −255 − 155 × (dark corners − dark
# neighbours inside the image); the middle is VALID. Its dark corners − dark neighbours:
#   top     0 − 0    1 − 0    0 − 1    1 − 0    0 − 0    0 − 0
#   left    1 − 0    1 − 2    1 − 1    1 − 1    (rows 1 to 4)
#   right   0 − 0    1 − 0    0 − 1    1 − 0    (rows 1 to 4)
#   bottom  0 − 0 everywhere
SAME = [
    [-255, -410, -100, -410, -255, -255],
    [-410, 155, -155, 155, -155, -255],
    [-100, -155, 310, -155, 155, -410],
    [-255, 310, 155, 310, 0, -100],
    [-255, -155, -155, -155, 0, -410],
    [-255, -255, -255, -255, -255, -255],
]
VALID_CONV, SAME_CONV = Conv(filters=1, padding="valid"), Conv(filters=1)
RELU, MAX, AVERAGE = Activation(), Pool(), Pool(kind="average")
WORKED = {
    "valid": ([VALID_CONV], VALID),
    "same": ([SAME_CONV], SAME),
    # Windows start at 0 and 2; (6 − 3) / 2 + 1 = 2.5, and what does not fit is dropped.
    "valid, stride 2": ([Conv(filters=1, padding="valid", stride=2)], [[155, 155], [310, 310]]),
    # ceil(6 / 2) = 3 windows need (3 − 1) × 2 + 3 − 6 = 1 pixel more, and it comes after: windows start at 0, 2 and 4,
    # not at −1. The last column: −255, −255 + 155 × 1 dark neighbour, −255.
    "same, stride 2": (
        [Conv(filters=1, stride=2)],
        [[155, 155, -255], [310, 310, -255 + 155], [-255, -255, -255]],
    ),
    "valid, relu": ([VALID_CONV, RELU], [[155, 0, 155, 0], [0, 310, 0, 155], [310, 155, 310, 0], [0, 0, 0, 0]]),
    "valid, max": (
        [VALID_CONV, MAX],
        [[max(155, -155, -155, 310), max(155, -155, -155, 155)], [max(310, 155, -155, -155), max(310, 0, -155, 0)]],
    ),
    "valid, average": (
        [VALID_CONV, AVERAGE],
        [
            [(155 - 155 - 155 + 310) / 4, (155 - 155 - 155 + 155) / 4],
            [(310 + 155 - 155 - 155) / 4, (310 + 0 - 155 + 0) / 4],
        ],
    ),
    "valid, relu, max": ([VALID_CONV, RELU, MAX], [[310, 155], [310, 310]]),
    "valid, relu, average": (
        [VALID_CONV, RELU, AVERAGE],
        [[(155 + 0 + 0 + 310) / 4, (155 + 0 + 0 + 155) / 4], [(310 + 155 + 0 + 0) / 4, (310 + 0 + 0 + 0) / 4]],
    ),
    # The order of pooling and ReLU matters for averages, and not for maxima.
    "valid, average, relu": ([VALID_CONV, AVERAGE, RELU], [[38.75, 0], [38.75, 38.75]]),
    "valid, max, relu": ([VALID_CONV, MAX, RELU], [[310, 155], [310, 310]]),
    "same, relu, max": ([SAME_CONV, RELU, MAX], [[155, 155, 0], [310, 310, 155], [0, 0, 0]]),
    "same, relu, average": (
        [SAME_CONV, RELU, AVERAGE],
        [[155 / 4, 155 / 4, 0], [310 / 4, (310 + 0 + 155 + 310) / 4, (155 + 0 + 0 + 0) / 4], [0, 0, 0]],
    ),
    # Windows of 3 that step by 2 overlap, and the last row and column have no part: (6 − 3) / 2 + 1 = 2 a side.
    "same, relu, overlapping average": (
        [SAME_CONV, RELU, Pool(kind="average", size=3, stride=2)],
        [[(155 + 310) / 9, (155 + 310 + 155) / 9], [(310 + 310 + 155) / 9, (310 + 155 + 155 + 310) / 9]],
    ),
}


def feature_maps(layers: list[Layer], image: np.ndarray, kernel: list, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """What PyTorch and what ONNX Runtime give for one gray (H, W) image, each (rows, columns): the dense layer at the
    end passes every feature on as it is."""
    layers, shape = [*layers, Flatten(), Dense()], (*image.shape, 1)
    size = trace(layers, shape, 2)[-3].output
    features = prod(size)
    model = modules.build(layers, shape, features).eval()
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(torch.tensor(kernel)[None, None])
            if isinstance(module, nn.Linear):
                module.weight.copy_(torch.eye(features))
        in_torch = model(torch.tensor(image)[None, None].float()).numpy()
    export_onnx(model, shape, [0.0], [1 / 255], folder / "model.onnx")
    in_onnx = Classifier.load(folder / "model.onnx").logits(image[None, ..., None])
    return in_torch.reshape(size[1:]), in_onnx.reshape(size[1:])


@pytest.mark.parametrize(("layers", "expected"), WORKED.values(), ids=WORKED)
def test_the_worked_image_gives_the_worked_feature_map_in_torch_and_in_onnx(layers, expected, tmp_path):
    in_torch, in_onnx = feature_maps(layers, IMAGE, KERNEL, tmp_path)
    np.testing.assert_allclose(in_torch, expected, rtol=1e-6)
    np.testing.assert_allclose(in_onnx, expected, atol=1e-3)


def test_one_value_is_the_sum_of_its_window_times_the_kernel():
    window = [[255, 255, 255], [255, 255, 100], [255, 100, 100]]
    products = [255 * 1, 255 * -1, 255 * 1, 255 * -1, 255 * 0, 100 * -1, 255 * 1, 100 * -1, 100 * 1]
    assert IMAGE[:3, :3].tolist() == window
    assert sum(products) == 255 - 255 + 255 - 255 - 100 + 255 - 100 + 100 == VALID[0][0]


def test_convolution_is_cross_correlation_as_in_every_deep_learning_library(tmp_path):
    """The mathematical one would turn the kernel by 180°: 4 instead of 1, and around a dot the kernel as it is."""
    kernel = [[1, 2], [3, 4]]
    for maps in feature_maps([Conv(filters=1, kernel=2, padding="valid")], dot(2, 0, 0), kernel, tmp_path):
        np.testing.assert_allclose(maps, [[1]], atol=1e-5)
    for maps in feature_maps([Conv(filters=1, kernel=2, padding=1)], dot(1, 0, 0), kernel, tmp_path):
        np.testing.assert_allclose(maps, [[4, 3], [2, 1]], atol=1e-5)


def dot(size_px: int, row: int, column: int) -> np.ndarray:
    """A black image with one pixel of 1."""
    image = np.zeros((size_px, size_px), np.uint8)
    image[row, column] = 1
    return image


@pytest.mark.parametrize(
    ("size_px", "kernel", "stride", "padding", "before", "after", "output"),
    [
        (6, 3, 1, "valid", 0, 0, 6 - 3 + 1),  # (N − f) / s + 1
        (28, 3, 1, "valid", 0, 0, 26),
        (28, 5, 1, "valid", 0, 0, 24),
        (7, 3, 2, "valid", 0, 0, (7 - 3) // 2 + 1),
        (7, 3, 3, "valid", 0, 0, 2),  # (7 − 3) / 3 + 1 = 2.33: the last pixel is not seen
        (6, 3, 2, "valid", 0, 0, 2),  # 2.5
        (7, 3, 1, 1, 1, 1, (7 + 2 - 3) // 1 + 1),  # (N + 2p − f) / s + 1
        (7, 3, 2, 1, 1, 1, (7 + 2 - 3) // 2 + 1),
        (227, 11, 4, 0, 0, 0, 55),  # AlexNet's first layer
        (28, 3, 1, "same", 1, 1, 28),  # p = (f − 1) / 2
        (28, 5, 1, "same", 2, 2, 28),
        (28, 2, 1, "same", 0, 1, 28),  # an even kernel cannot be centred
        (28, 4, 1, "same", 1, 2, 28),
        (28, 3, 2, "same", 0, 1, 14),  # TensorFlow: ceil(N / s), and the odd pixel after
        (7, 3, 2, "same", 1, 1, 4),
        (6, 5, 2, "same", 1, 2, 3),
        (224, 7, 2, "same", 2, 3, 112),
        (5, 1, 2, "same", 0, 0, 3),  # a kernel below its stride needs none
    ],
)
def test_padding_and_output_size_are_those_of_the_table(size_px, kernel, stride, padding, before, after, output):
    conv = Conv(filters=1, kernel=kernel, stride=stride, padding=padding)
    layers = (conv, Flatten(), Dense())
    assert conv_padding(conv, size_px) == (before, after)
    assert (size_px + before + after - kernel) // stride + 1 == output
    assert trace(layers, (size_px, size_px, 1), 2)[0].output == (1, output, output)
    assert run_up_to_flatten(layers, (size_px, size_px, 1)).shape == (1, 1, output, output)


def run_up_to_flatten(layers: tuple[Layer, ...], image_shape: tuple[int, int, int]) -> torch.Tensor:
    """The feature maps (1, C, H, W) that the built network has before it flattens them."""
    height, width, channels = image_shape
    values = torch.zeros(1, channels, height, width)
    for module in modules.build(layers, image_shape, 2).eval():
        if isinstance(module, nn.Flatten):
            break
        values = module(values)
    return values


def test_the_odd_pixel_of_same_padding_at_stride_2_comes_after(tmp_path):
    """A dot in the last row and column is seen by the kernel's middle, one in the first by its corner."""
    kernel = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    conv = [Conv(filters=1, stride=2)]
    for maps in feature_maps(conv, dot(4, 0, 0), kernel, tmp_path):
        np.testing.assert_allclose(maps, [[1, 0], [0, 0]], atol=1e-5)
    for maps in feature_maps(conv, dot(4, 3, 3), kernel, tmp_path):
        np.testing.assert_allclose(maps, [[0, 0], [0, 5]], atol=1e-5)


@pytest.mark.parametrize(
    ("size_px", "size", "stride", "output"),
    [(28, 2, None, 14), (5, 2, None, 2), (7, 3, None, 2), (8, 3, None, 2), (6, 3, 2, 2), (5, 2, 1, 4), (3, 3, 5, 1)],
)
@pytest.mark.parametrize("kind", ["max", "average"])
def test_pooling_windows_that_do_not_fit_are_dropped(kind, size_px, size, stride, output):
    layers = (Pool(kind=kind, size=size, stride=stride), Flatten(), Dense())
    assert trace(layers, (size_px, size_px, 1), 2)[0].output == (1, output, output)
    assert run_up_to_flatten(layers, (size_px, size_px, 1)).shape == (1, 1, output, output)


@pytest.mark.parametrize("kind", ["max", "average"])
def test_pixels_beyond_the_last_pooling_window_have_no_part_in_it(kind, tmp_path):
    image = np.arange(25, dtype=np.uint8).reshape(5, 5)
    worked = {
        "max": [[6, 8], [16, 18]],
        "average": [
            [(0 + 1 + 5 + 6) / 4, (2 + 3 + 7 + 8) / 4],
            [(10 + 11 + 15 + 16) / 4, (12 + 13 + 17 + 18) / 4],
        ],
    }
    for border in (image[4, 4], 200):
        image[4, :], image[:, 4] = border, border
        for maps in feature_maps([Pool(kind=kind)], image, [], tmp_path):
            np.testing.assert_allclose(maps, worked[kind], atol=1e-4)


LAYERS = st.one_of(
    st.builds(
        Conv,
        filters=st.integers(1, 3),
        kernel=st.integers(1, 5),
        stride=st.integers(1, 3),
        padding=st.one_of(st.sampled_from(["same", "valid"]), st.integers(0, 2)),
        bias=st.booleans(),
    ),
    st.builds(
        Pool,
        kind=st.sampled_from(["max", "average"]),
        size=st.integers(1, 3),
        stride=st.one_of(st.none(), st.integers(1, 3)),
    ),
    st.builds(Activation, function=st.sampled_from(["relu", "gelu", "tanh"])),
    st.just(BatchNorm()),
    st.just(Dropout2d()),
)


@settings(max_examples=100, deadline=None)
@given(
    layers=st.lists(LAYERS, min_size=1, max_size=6),
    image_shape=st.tuples(st.integers(1, 24), st.integers(1, 24), st.sampled_from([1, 3])),
)
def test_any_stack_of_layers_that_fits_is_traced_as_torch_computes_it(layers, image_shape):
    layers = (*layers, Flatten(), Dense())
    traced = traced_or_none(layers, image_shape)
    assume(traced is not None)
    assert run_up_to_flatten(layers, image_shape).shape[1:] == traced[-3].output
    parameters = modules.build(layers, image_shape, 2).parameters()
    assert sum(layer.num_weights for layer in traced) == sum(weights.numel() for weights in parameters)


def traced_or_none(layers: tuple[Layer, ...], image_shape: tuple[int, int, int]) -> list[LayerShape] | None:
    """None where a kernel or a window does not fit."""
    try:
        return trace(layers, image_shape, 2)
    except SettingsError:
        return None


@settings(max_examples=30, deadline=None)
@given(probability=st.floats(0.05, 0.9), seed=st.integers(0, 99))
def test_dropout_of_feature_maps_zeroes_whole_maps_and_scales_the_kept_by_1_over_1_minus_p(probability, seed):
    model = modules.build((Dropout2d(probability=probability), Flatten(), Dense()), (4, 5, 40), 2)
    modules.set_generator(model, torch.Generator().manual_seed(seed))
    maps = torch.rand(10, 40, 4, 5) + 0.5
    factors = (model[0].train()(maps) / maps).flatten(2)  # (10, 40, 20)
    dropped = (factors == 0).all(2)
    assert torch.equal(dropped, (factors == 0).any(2))
    torch.testing.assert_close(factors[~dropped], torch.full_like(factors[~dropped], 1 / (1 - probability)))
    assert dropped.float().mean().item() == pytest.approx(probability, abs=0.12)  # 400 draws: 4.8 standard deviations
    assert torch.equal(model[0].eval()(maps), maps)
