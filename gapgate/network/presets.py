"""Networks by name, as layers for the shape of the images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from gapgate.network.layers import (
    Activation,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool,
    InvertedResidual,
    Layer,
    Pool,
)

ImageShape: TypeAlias = tuple[int, int, int]
"""Shape of an image: (height, width, channels)."""


def _softmax(_: ImageShape) -> tuple[Layer, ...]:
    """Layers of softmax regression: one linear map from pixels to classes."""
    return Flatten(), Dense()


def _dense(_: ImageShape) -> tuple[Layer, ...]:
    """Layers of a network with one hidden dense layer."""
    return Flatten(), Dense(units=128), Activation(), Dense()


def _tutorial(_: ImageShape) -> tuple[Layer, ...]:
    """Layers of the CNN of most introductions: two convolutions with pools, then two dense layers."""
    stages = (Conv(filters=32), Activation(), Pool(), Conv(filters=64), Activation(), Pool())
    return *stages, Flatten(), Dense(units=128), Activation(), Dense()


def _small(image_shape: ImageShape) -> tuple[Layer, ...]:
    """Stages of two convolutions with batch normalisation and ReLU.

    Each stage halves the side and doubles the filters (16 to 256) until the side is at most 7 px. On `digits`, 20
    epochs, mild augmentation: 99.3 % test accuracy, 4 seeds 98.9 to 99.6.
    """
    # From 48 px on the first convolution has stride 2: maps of full size would take most of the time.
    stride = 2 if min(image_shape[:2]) >= 48 else 1
    side_px = math.ceil(min(image_shape[:2]) / stride)
    # A stage for each halving that brings the side below 8, and one more: 7 px → 1, 8 to 15 → 2, 16 to 31 → 3.
    num_stages = 1 + (side_px // 8).bit_length()
    last_filters = {1: 64, 2: 96, 3: 128}.get(num_stages, 256)
    layers: list[Layer] = []
    for stage in range(num_stages):
        filters = max(16, last_filters >> (num_stages - 1 - stage))
        # No bias: batch normalisation subtracts the mean, and a constant with it.
        for step in (stride if stage == 0 else 1, 1):
            layers += [Conv(filters=filters, stride=step, bias=False), BatchNorm(), Activation()]
        layers += [Pool()] if stage < num_stages - 1 else [GlobalAveragePool(), Dropout(probability=0.2), Dense()]
    return tuple(layers)


def _efficientnet_lite(width: float, depth: float) -> tuple[Layer, ...]:
    """Layers of EfficientNet-Lite (Tan and Le 2019; the Lite variants by R. Liu 2020): EfficientNet without
    squeeze-and-excitation, with ReLU6.

    `width` multiplies the filters of the blocks and `depth` their repeats; the first and the last layers keep theirs.
    """
    stem = (Conv(filters=32, stride=2, bias=False), BatchNorm(epsilon=_LITE_EPSILON), Activation(function="relu6"))
    blocks: list[Layer] = []
    for stage, (repeats, kernel, stride, expansion, filters) in enumerate(_LITE_STAGES):
        is_outer = stage in (0, len(_LITE_STAGES) - 1)
        for repeat in range(repeats if is_outer else math.ceil(depth * repeats)):
            block = InvertedResidual(
                filters=_in_eights(width * filters),
                kernel=kernel,
                stride=stride if repeat == 0 else 1,
                expansion=expansion,
                epsilon=_LITE_EPSILON,
            )
            blocks.append(block)
    last = (Conv(filters=1280, kernel=1, bias=False), *stem[1:])
    return *stem, *blocks, *last, GlobalAveragePool(), Dropout(probability=0.2), Dense()


_LITE_EPSILON = 1e-3  # with which the weights were trained; torch's default is 1e-5
_LITE_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Stages of EfficientNet-B0: (repeats, kernel, stride of the first block, expansion, filters)."""


def _in_eights(filters: float) -> int:
    """Round to the nearest multiple of 8 that is not more than a tenth smaller."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters else rounded


PRESETS: dict[str, Callable[[ImageShape], tuple[Layer, ...]]] = {
    "small": _small,
    "tutorial": _tutorial,
    "dense": _dense,
    "softmax": _softmax,
    "efficientnet_lite0": lambda _: _efficientnet_lite(1.0, 1.0),
    "efficientnet_lite1": lambda _: _efficientnet_lite(1.0, 1.1),
    "efficientnet_lite2": lambda _: _efficientnet_lite(1.1, 1.2),
}
"""Name of a preset → function from the shape of the images to the layers."""
