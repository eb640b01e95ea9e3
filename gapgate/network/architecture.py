"""A network as data: the arithmetic of its shapes and weights (the layers are in `gapgate.network.layers`).

Shapes here are (channels, height, width) before `flatten` or `global_average_pool`, and (features,) after.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gapgate.errors import SettingsError
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
    Layer,
    Pool,
)
from gapgate.network.presets import PRESETS, ImageShape

__all__ = ["MAX_LAYER_WEIGHTS", "PRESETS", "ImageShape", "Layer", "LayerShape"]
__all__ += ["check_name", "conv_padding", "describe", "inside", "resolve", "torchvision_name", "trace"]


MAX_LAYER_WEIGHTS = 1_000_000_000
"""Most weights in one layer. 10⁹ float32 weights are 4 GB, and training keeps four copies: weights, gradients and two
moments."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Output shape and size of one layer."""

    name: str
    """Short description, such as `conv 32 3×3 same`."""
    output: tuple[int, ...]
    """Shape of the output for one image, (channels, height, width) or (features,)."""
    num_weights: int
    """Number of learned values, biases included."""


def resolve(architecture: str | tuple[Layer, ...], image_shape: ImageShape, num_classes: int) -> tuple[Layer, ...]:
    """Return the layers of a preset or of a layer list, with every `units` filled in.

    The result is `()` for `torchvision/NAME`, whose layers are torchvision's own (see `torchvision_name`).

    Raises:
        SettingsError: the preset is unknown, or the layers do not fit each other, the images or the classes.
    """
    if isinstance(architecture, tuple):
        layers = architecture
    elif torchvision_name(architecture) is not None:
        return ()
    else:
        check_name(architecture)
        layers = PRESETS[architecture](image_shape)
    layers = tuple(
        layer.model_copy(update={"units": num_classes}) if isinstance(layer, Dense) and layer.units is None else layer
        for layer in layers
    )
    trace(layers, image_shape, num_classes)
    return layers


def check_name(architecture: str) -> None:
    """Refuse a name that is no preset and no classifier of torchvision.

    Raises:
        SettingsError: it is neither.
    """
    if architecture not in PRESETS and torchvision_name(architecture) is None:
        raise SettingsError(
            f"train.architecture={architecture} is not a preset; choose one of auto, frozen, finetune, "
            f"{', '.join(PRESETS)}, torchvision/NAME, or give a list of layers"
        )


def torchvision_name(architecture: str | tuple[Layer, ...]) -> str | None:
    """Return the NAME in `torchvision/NAME`; None for a preset or a layer list.

    Raises:
        SettingsError: the name is missing, or cannot be a name in torchvision.
    """
    if not isinstance(architecture, str) or not architecture.startswith("torchvision"):
        return None
    name = architecture.removeprefix("torchvision").removeprefix("/")
    if architecture != f"torchvision/{name}" or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise SettingsError(
            f"train.architecture={architecture} names no torchvision classifier; write it like torchvision/resnet18"
        )
    return name


def trace(layers: Sequence[Layer], image_shape: ImageShape, num_classes: int) -> list[LayerShape]:
    """Compute the output shape and the number of weights of each layer, for one image of `image_shape`.

    Raises:
        SettingsError: a layer does not fit its input; the message has the path of the first one.
    """
    height, width, channels = image_shape
    shape: tuple[int, ...] = (channels, height, width)
    traced: list[LayerShape] = []
    for index, layer in enumerate(layers):
        try:
            output = _output_shape(layer, shape, num_classes)
            num_weights = _num_weights(layer, shape, output)
            if num_weights > MAX_LAYER_WEIGHTS:
                raise _MisfitError(
                    f"{num_weights:,} weights exceed the limit {MAX_LAYER_WEIGHTS:,}; "
                    "lower its units or filters, or pool more before it"
                )
        except _MisfitError as misfit:
            raise SettingsError(f"train.architecture.{index}: {misfit}") from None
        traced.append(LayerShape(describe(layer, num_classes), output, num_weights))
        shape = output
    if shape != (num_classes,):
        last, remedy = len(layers) - 1, "dense" if len(shape) == 1 else "flatten and dense"
        raise SettingsError(
            f"train.architecture.{last}: the network ends with {_features(shape)} for {num_classes} classes; "
            f"end with {remedy}"
        )
    return traced


def inside(layer: InvertedResidual, shape: tuple[int, ...]) -> list[tuple[Layer, tuple[int, ...], tuple[int, ...]]]:
    """List the layers inside a block for an input of `shape`, each with the shapes of its input and output."""
    parts: list[tuple[Layer, tuple[int, ...], tuple[int, ...]]] = []
    for part in layer.parts(_feature_maps(layer, shape)[0]):
        output = _output_shape(part, shape, num_classes=0)
        parts.append((part, shape, output))
        shape = output
    return parts


def conv_padding(layer: Conv, size_px: int) -> tuple[int, int]:
    """Compute the number of zero pixels (before, after) that `layer` adds along a side of `size_px`.

    `same` is TensorFlow's rule: the output has ceil(size / stride) pixels, and of an odd total the extra one is after.
    """
    if layer.padding == "valid":
        return 0, 0
    if layer.padding == "same":
        # The last of the ceil(size / stride) windows starts at (that − 1) · stride and spans `kernel` pixels. It ends
        # inside the image where the stride is larger than the kernel.
        total = max((math.ceil(size_px / layer.stride) - 1) * layer.stride + layer.kernel - size_px, 0)
        return total // 2, total - total // 2
    return layer.padding, layer.padding


def describe(layer: Layer, num_classes: int) -> str:
    """Describe a layer in a few words, such as `conv 32 3×3 same`."""
    match layer:
        case Conv(filters=filters, kernel=kernel, stride=stride, padding=padding, groups=groups):
            padded = padding if isinstance(padding, str) else f"padding {padding}"
            strided = f" stride {stride}" if stride > 1 else ""
            return f"conv {filters} {kernel}×{kernel} {padded}" + strided + (f" groups {groups}" if groups > 1 else "")
        case InvertedResidual(filters=filters, kernel=kernel, stride=stride):
            return f"inverted residual {filters} {kernel}×{kernel}" + (f" stride {stride}" if stride > 1 else "")
        case Pool(kind=kind, size=size, stride=stride):
            return f"{kind} pool {size}×{size}" + (f" stride {stride}" if stride not in (None, size) else "")
        case Activation(function=function):
            return function.replace("_", " ")
        case Dropout(probability=probability) | Dropout2d(probability=probability):
            return f"{layer.type} {probability:g}"
        case Dense(units=units):
            return f"dense {units or num_classes}"
        case _:
            return layer.type.replace("_", " ")


class _MisfitError(Exception):
    """Error for a layer that does not fit its input; the caller adds the layer's path to the text."""


def _output_shape(layer: Layer, shape: tuple[int, ...], num_classes: int) -> tuple[int, ...]:
    """Compute the shape of a layer's output for an input of `shape`, both (channels, height, width) or (features,)."""
    match layer:
        case Conv():
            channels, height, width = _feature_maps(layer, shape)
            if channels % layer.groups or layer.filters % layer.groups:
                raise _MisfitError(
                    f"groups={layer.groups} divides not both its {channels} channels and {layer.filters} filters; "
                    "choose a divisor of both"
                )
            return layer.filters, _conv_size(layer, height, shape), _conv_size(layer, width, shape)
        case InvertedResidual():
            return inside(layer, shape)[-1][2]
        case Pool():
            channels, height, width = _feature_maps(layer, shape)
            return channels, _pool_size(layer, height, shape), _pool_size(layer, width, shape)
        case GlobalAveragePool():
            return _feature_maps(layer, shape)[:1]
        case Dropout2d():
            return _feature_maps(layer, shape)
        case Flatten():
            return (math.prod(shape),)
        case Dense():
            if len(shape) != 1:
                raise _MisfitError(f"dense needs flat features but gets {_features(shape)}; put flatten before it")
            return (layer.units or num_classes,)
        case _:
            return shape


def _feature_maps(layer: Layer, shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) != 3:
        name = layer.type.replace("_", " ")
        raise _MisfitError(f"{name} needs feature maps but gets {_features(shape)}; move it before flatten")
    channels, height, width = shape
    return channels, height, width


def _conv_size(layer: Conv, size_px: int, shape: tuple[int, ...]) -> int:
    """Compute the side of a convolution's output: (N + 2p − f) / s + 1, rounded down."""
    padded_px = size_px + sum(conv_padding(layer, size_px))
    if padded_px < layer.kernel:
        raise _MisfitError(
            f"a {layer.kernel}×{layer.kernel} kernel does not fit its {_input(shape, layer.padding)}; "
            "use padding: same or drop a pool"
        )
    return (padded_px - layer.kernel) // layer.stride + 1


def _pool_size(layer: Pool, size_px: int, shape: tuple[int, ...]) -> int:
    """Compute the side of a pool's output: (N − f) / s + 1, rounded down."""
    if size_px < layer.size:
        raise _MisfitError(
            f"a {layer.size}×{layer.size} pool does not fit its {_input(shape)}; drop it or a pool before"
        )
    return (size_px - layer.size) // (layer.stride or layer.size) + 1


def _num_weights(layer: Layer, shape: tuple[int, ...], output: tuple[int, ...]) -> int:
    """Count the learned values of a layer with an input of `shape`."""
    match layer:
        case Conv():
            # A filter sees the channels of its own group alone.
            return layer.filters * (layer.kernel**2 * shape[0] // layer.groups + layer.bias)
        case InvertedResidual():
            return sum(_num_weights(*part) for part in inside(layer, shape))
        case Dense():
            return output[0] * (shape[0] + 1)
        case BatchNorm():
            return 2 * shape[0]  # scale and shift; the running mean and variance are not learned
        case _:
            return 0


def _input(shape: tuple[int, ...], padding: str | int = 0) -> str:
    padded = f" padded by {padding}" if isinstance(padding, int) and padding > 0 else ""
    return f"{shape[1]}×{shape[2]} input{padded}"


def _features(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} feature maps of {shape[1]}×{shape[2]}" if len(shape) == 3 else f"{shape[0]} features"
