"""The layers that `train.architecture` may list, as data.

Shapes here are (channels, height, width) before `flatten` or `global_average_pool`, and (features,) after.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gapgate.settings.base import Count, Section


class Conv(Section):
    """2-D convolution (cross-correlation, as in every deep-learning library), with or without a bias."""

    type: Literal["conv"] = "conv"
    filters: Count
    """Output channels."""
    kernel: Count = 3
    """Side of the square kernel, in pixels."""
    stride: Count = 1
    """Step of the kernel, in pixels."""
    padding: Literal["same", "valid"] | Annotated[int, Field(ge=0)] = "same"
    """Zero pixels around the input: `same` gives ceil(size / stride), `valid` adds none, a number adds that many on
    every side."""
    groups: Count = 1
    """Number of equal parts of the channels, each with filters of its own; as many as channels make it depthwise."""
    bias: bool = True
    """True if each filter adds a learned constant."""


class Pool(Section):
    """Max or average pooling; windows that do not fit are dropped."""

    type: Literal["pool"] = "pool"
    kind: Literal["max", "average"] = "max"
    """Value taken from each window: the largest or the mean."""
    size: Count = 2
    """Side of the square window, in pixels."""
    stride: Count | None = None
    """Step of the window, in pixels; by default the size of the window."""


class Activation(Section):
    """Element-wise non-linear function."""

    type: Literal["activation"] = "activation"
    function: Literal["relu", "relu6", "leaky_relu", "sigmoid", "tanh", "gelu"] = "relu"
    """Name of the function; relu6 ends at 6, leaky_relu has the slope 0.01 below zero."""


class BatchNorm(Section):
    """Batch normalisation over channels (or features after `flatten`)."""

    type: Literal["batch_norm"] = "batch_norm"
    epsilon: Annotated[float, Field(gt=0)] = 1e-5
    """Number added to the variance."""


class InvertedResidual(Section):
    """Inverted residual (Sandler et al. 2018, MobileNetV2): a 1×1 convolution that multiplies the channels, a depthwise
    convolution with `same` padding, and a 1×1 convolution to `filters`. Each is followed by batch normalisation, the
    first two by ReLU6 as well; the input is added where the output has its shape."""

    type: Literal["inverted_residual"] = "inverted_residual"
    filters: Count
    """Output channels."""
    kernel: Count = 3
    """Side of the depthwise kernel, in pixels."""
    stride: Count = 1
    """Step of the depthwise kernel, in pixels."""
    expansion: Count = 6
    """Factor by which the channels are multiplied; 1 leaves the first convolution out."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-5
    """Number added to the variances of the batch normalisations."""

    def parts(self, channels: int) -> tuple[Conv | BatchNorm | Activation, ...]:
        """Return the layers inside, for an input of `channels`."""
        norm, wide = BatchNorm(epsilon=self.epsilon), channels * self.expansion
        relu6 = Activation(function="relu6")
        expand = (Conv(filters=wide, kernel=1, bias=False), norm, relu6) if self.expansion > 1 else ()
        depthwise = Conv(filters=wide, kernel=self.kernel, stride=self.stride, groups=wide, bias=False)
        return *expand, depthwise, norm, relu6, Conv(filters=self.filters, kernel=1, bias=False), norm


class Dropout(Section):
    """Dropout of single values while training."""

    type: Literal["dropout"] = "dropout"
    probability: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """Probability that a value is set to zero."""


class Dropout2d(Section):
    """Dropout of whole feature maps while training."""

    type: Literal["dropout2d"] = "dropout2d"
    probability: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    """Probability that a feature map is set to zero."""


class Flatten(Section):
    """Flattening of feature maps: (channels, height, width) → (features,)."""

    type: Literal["flatten"] = "flatten"


class GlobalAveragePool(Section):
    """Mean of each feature map: (channels, height, width) → (channels,)."""

    type: Literal["global_average_pool"] = "global_average_pool"


class Dense(Section):
    """A fully connected layer with a bias."""

    type: Literal["dense"] = "dense"
    units: Count | None = None
    """Output features; by default the number of classes, as the last layer needs."""


Layer = Annotated[
    Conv | Pool | Activation | BatchNorm | InvertedResidual | Dropout | Dropout2d | Flatten | GlobalAveragePool | Dense,
    Field(discriminator="type"),
]
