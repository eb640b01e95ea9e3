"""The layers that `train.architecture` may list, as data.

Shapes here are (channels, height, width) before `flatten` or `global_average_pool`, and (features,) after.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gapgate.settings.base import Count, Section


class Conv(Section):
    """A 2-D convolution (cross-correlation, as in every deep-learning library) with a bias."""

    type: Literal["conv"] = "conv"
    filters: Count
    """Output channels."""
    kernel: Count = 3
    """Side of the square kernel, in pixels."""
    stride: Count = 1
    """Step of the kernel, in pixels."""
    padding: Literal["same", "valid"] | Annotated[int, Field(ge=0)] = "same"
    """`same` keeps ceil(size / stride), `valid` is none, a number is that many zero pixels on every side."""
    bias: bool = True
    """Whether each filter adds a learned constant."""


class Pool(Section):
    """Max or average pooling; windows that do not fit are dropped."""

    type: Literal["pool"] = "pool"
    kind: Literal["max", "average"] = "max"
    """The statistic taken in each window."""
    size: Count = 2
    """Side of the square window, in pixels."""
    stride: Count | None = None
    """Step of the window, in pixels; the window's size when not given."""


class Activation(Section):
    """An element-wise non-linearity."""

    type: Literal["activation"] = "activation"
    function: Literal["relu", "leaky_relu", "sigmoid", "tanh", "gelu"] = "relu"
    """Its name; leaky_relu has the slope 0.01 below zero."""


class BatchNorm(Section):
    """Batch normalisation over channels (or features after `flatten`)."""

    type: Literal["batch_norm"] = "batch_norm"


class Dropout(Section):
    """Dropout of single values while training."""

    type: Literal["dropout"] = "dropout"
    probability: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """Chance of each value to be zeroed."""


class Dropout2d(Section):
    """Dropout of whole feature maps while training."""

    type: Literal["dropout2d"] = "dropout2d"
    probability: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    """Chance of each feature map to be zeroed."""


class Flatten(Section):
    """(channels, height, width) → (features,)."""

    type: Literal["flatten"] = "flatten"


class GlobalAveragePool(Section):
    """(channels, height, width) → (channels,), the mean of each feature map."""

    type: Literal["global_average_pool"] = "global_average_pool"


class Dense(Section):
    """A fully connected layer with a bias."""

    type: Literal["dense"] = "dense"
    units: Count | None = None
    """Output features; the number of classes when not given, as in the last layer."""


Layer = Annotated[
    Conv | Pool | Activation | BatchNorm | Dropout | Dropout2d | Flatten | GlobalAveragePool | Dense,
    Field(discriminator="type"),
]
