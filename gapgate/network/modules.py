"""torch modules built from a layer list: (N, C, H, W) normalised float32 → (N, num_classes) logits.

Weights are drawn from torch's global random generator, so `torch.manual_seed` before `build` fixes them. Dropout draws
from the generator set by `set_generator`, so that two threads, each with its own copy of the network, draw the same
numbers in every run.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gapgate.errors import SettingsError
from gapgate.network import layers as specs
from gapgate.network.architecture import ImageShape, Layer, conv_padding, inside, trace
from gapgate.variables import environment

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
}
_MONOTONE = frozenset({"relu", "relu6", "leaky_relu", "sigmoid", "tanh"})
"""Activations that never fall, for which f(max(a, b)) = max(f(a), f(b)). GELU falls below −0.75, so it is not one."""


def to_float(images: Tensor) -> Tensor:
    """Convert images (N, H, W, C) uint8 to (N, C, H, W) float32 in 0..1, in channels-last memory."""
    return images.permute(0, 3, 1, 2).float() / 255


def standardise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Compute (images − mean) / std by channel; images (N, C, H, W) in 0..1, mean and std (C,) on their device."""
    return (images - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalise images (N, H, W, C) uint8 to (N, C, H, W) float32 for a network; mean and std (C,), for 0..1."""
    return standardise(to_float(images), mean, std)


def build(layers: Sequence[Layer], image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Build the network of a layer list; its modules are named by the layer's index and type, such as `0_conv`.

    A max pool that follows a monotone activation runs before it: the function and the gradients are the same, and the
    activation has a quarter of the values to compute (1.2 × training throughput on the tutorial CNN).

    Raises:
        SettingsError: the layers do not fit each other, the images or the classes.
    """
    shapes = [layer.output for layer in trace(layers, image_shape, num_classes)]
    height, width, channels = image_shape
    inputs = [(channels, height, width), *shapes]
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for index in _pool_first(layers):
        modules.update(_named_modules(index, layers[index], inputs[index], shapes[index], layers[index + 1 :]))
    return nn.Sequential(modules)


def build_torchvision(name: str, image_shape: ImageShape, num_classes: int, pretrained: bool) -> nn.Module:
    """Build a classifier of torchvision by name, with a head for `num_classes`; gray images become 3 channels.

    Raises:
        SettingsError: the name is unknown, the network cannot take the images, or the weights cannot be downloaded.
    """
    from torchvision import models  # takes 7.7 s, most of it for torch._dynamo; most recipes need no torchvision

    names = models.list_models(module=models)
    if name not in names:
        near = difflib.get_close_matches(name, names) or ["resnet18", "mobilenet_v3_small"]
        raise SettingsError(
            f"train.architecture=torchvision/{name} is not a torchvision classifier; try {', '.join(near)}"
        )
    network = _pretrained(models, name, num_classes) if pretrained else _untrained(models, name, num_classes)
    _replace_dropout(network)
    model = RepeatedGray(network)
    _check_input(model, name, image_shape)
    return model


def set_generator(model: nn.Module, generator: torch.Generator | None) -> None:
    """Let every dropout of `model` draw from `generator` (on the model's device); None: torch's global generator."""
    # Each shard has its own copy of the model and its own generator: with one generator for two threads, the order in
    # which they run would decide the numbers that each gets.
    for module in model.modules():
        if isinstance(module, Dropout):
            module.generator = generator


class Dropout(nn.Module):
    """Inverted dropout (Srivastava et al. 2014) that draws from a given generator.

    `unit` names the part that is set to zero as a whole: a `value`, a feature `map`, or an `image` (stochastic depth,
    Huang et al. 2016, on a residual branch).
    """

    def __init__(self, probability: float, unit: Literal["value", "map", "image"] = "value") -> None:
        super().__init__()
        self.probability = probability
        self.unit = unit
        self.generator: torch.Generator | None = None

    def forward(self, values: Tensor) -> Tensor:
        """Drop values of (N, C, ...) and scale those kept by 1 / (1 − probability); do nothing in evaluation mode."""
        if not self.training or self.probability == 0:
            return values
        # The leading axes that have draws of their own; along the others one draw holds for all.
        drawn = {"value": values.ndim, "map": 2, "image": 1}[self.unit]
        kept = self._kept(values.shape[:drawn], values.device).view(values.shape[:drawn] + (1,) * (values.ndim - drawn))
        return values * kept / (1 - self.probability)

    def _kept(self, shape: torch.Size, device: torch.device) -> Tensor:
        """Draw the values that are kept, bool of `shape`."""
        # 16 random bits for each value, four of them from one 64-bit word. `bernoulli_` with a generator draws a double
        # for each value, which took a tenth of the training time of a small network.
        words = torch.empty(-(-shape.numel() // 4), dtype=torch.int64, device=device)
        words.random_(-(2**63), None, generator=self.generator)
        # As int16 the bits are uniform over −2¹⁵ to 2¹⁵ − 1, so a share of `probability` lies below the threshold.
        threshold = round(self.probability * 2**16) - 2**15
        return (words.view(torch.int16)[: shape.numel()] >= threshold).view(shape)


class GlobalAveragePool(nn.Module):
    """Mean of each feature map."""

    def forward(self, maps: Tensor) -> Tensor:
        """Compute the means, (N, C), of maps (N, C, H, W)."""
        return maps.mean((2, 3))


class InvertedResidual(nn.Sequential):
    """Layers of an inverted residual; the input is added where the output has its shape."""

    def __init__(self, layer: specs.InvertedResidual, shape: tuple[int, ...], output: tuple[int, ...]) -> None:
        parts = inside(layer, shape)
        layers = [part for part, _, _ in parts]
        made = (_named_modules(index, *parts[index], layers[index + 1 :]) for index in range(len(parts)))
        super().__init__(OrderedDict(named for modules in made for named in modules))
        self._is_added = shape == output

    def forward(self, maps: Tensor) -> Tensor:
        """Compute the maps (N, filters, H / stride, W / stride) of maps (N, C, H, W)."""
        made: Tensor = super().forward(maps)  # type: ignore[no-untyped-call]
        return maps + made if self._is_added else made


class FlipAveraged(nn.Module):
    """Network whose logits are the mean over an image and its mirror image (test-time augmentation, Krizhevsky et al.
    2012)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits (N, num_classes) of images (N, C, H, W)."""
        # The mirror image first: the report and the index of similar images read the branch that is last in the
        # exported graph, which is then the image's own.
        mirrored = self.network(images.flip(3))
        logits: Tensor = (mirrored + self.network(images)) / 2
        return logits


class RepeatedGray(nn.Module):
    """Network for 3 channels that also takes 1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits (N, num_classes) of images (N, 1 or 3, H, W)."""
        logits: Tensor = self.network(images.expand(-1, 3, -1, -1))
        return logits


def _pool_first(layers: Sequence[Layer]) -> list[int]:
    """Return the order of execution, as indices: each max pool moves before the monotone activations before it."""
    order = list(range(len(layers)))
    for place in range(1, len(order)):
        while place > 0 and _is_max_pool(layers[order[place]]) and _is_monotone(layers[order[place - 1]]):
            order[place - 1], order[place] = order[place], order[place - 1]
            place -= 1
    return order


def _is_max_pool(layer: Layer) -> bool:
    return isinstance(layer, specs.Pool) and layer.kind == "max"


def _is_monotone(layer: Layer) -> bool:
    return isinstance(layer, specs.Activation) and layer.function in _MONOTONE


def _named_modules(
    index: int, layer: Layer, shape: tuple[int, ...], output: tuple[int, ...], following: Sequence[Layer]
) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of one layer, each with its name and first weights."""
    for part, module in _modules(layer, shape, output):
        if isinstance(module, nn.Conv2d | nn.Linear):
            _initialise(module, following)
        yield f"{index}_{part}", module


def _modules(layer: Layer, shape: tuple[int, ...], output: tuple[int, ...]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of one layer, each with a name; a convolution may need a second one for uneven padding."""
    module: nn.Module
    match layer:
        case specs.Conv():
            top, bottom = conv_padding(layer, shape[1])
            left, right = conv_padding(layer, shape[2])
            # Conv2d pads both ends of a side equally; an odd total of `same` needs a padding of its own.
            even = top == bottom and left == right
            if not even:
                yield "pad", nn.ZeroPad2d((left, right, top, bottom))
            padding = (top, left) if even else 0
            module = nn.Conv2d(
                shape[0], layer.filters, layer.kernel, layer.stride, padding, groups=layer.groups, bias=layer.bias
            )
        case specs.Pool():
            pool = nn.MaxPool2d if layer.kind == "max" else nn.AvgPool2d
            module = pool(layer.size, layer.stride)
        case specs.Activation():
            module = _ACTIVATIONS[layer.function]()
        case specs.BatchNorm():
            module = (nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d)(shape[0], layer.epsilon)
        case specs.InvertedResidual():
            module = InvertedResidual(layer, shape, output)
        case specs.Dropout():
            module = Dropout(layer.probability)
        case specs.Dropout2d():
            module = Dropout(layer.probability, unit="map")
        case specs.Flatten():
            module = nn.Flatten()
        case specs.GlobalAveragePool():
            module = GlobalAveragePool()
        case specs.Dense():
            module = nn.Linear(shape[0], output[0])
    yield layer.type, module


def _initialise(module: nn.Conv2d | nn.Linear, following: Sequence[Layer]) -> None:
    """Set weights as in He et al. 2015 before a rectifier, else as in Glorot and Bengio 2010; biases are zero."""
    passed = (specs.BatchNorm, specs.Pool, specs.Dropout, specs.Dropout2d)
    after = next((layer for layer in following if not isinstance(layer, passed)), None)
    if isinstance(after, specs.Activation) and after.function in {"relu", "relu6", "leaky_relu", "gelu"}:
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    else:
        nn.init.xavier_normal_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _untrained(models: Any, name: str, num_classes: int) -> nn.Module:
    # By default these two have auxiliary outputs with a loss of their own, and warn about their slow initialisation.
    extra = {"aux_logits": False, "init_weights": True} if name in {"googlenet", "inception_v3"} else {}
    network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **extra)
    return network


def _pretrained(models: Any, name: str, num_classes: int) -> nn.Module:
    try:
        # A file of weights is a pickle, which could run code, and torchvision's call reads it whole; that of an earlier
        # download also without its checksum (torchvision 0.29.2).
        with environment(TORCH_FORCE_WEIGHTS_ONLY_LOAD="1"):
            network: nn.Module = models.get_model(name, weights="DEFAULT")
    except OSError as error:
        raise SettingsError(
            f"train.pretrained=true: the weights of {name} cannot be downloaded ({error}); "
            "set train.pretrained=false or fill TORCH_HOME"
        ) from None
    except UnpicklingError:
        raise SettingsError(
            f"train.pretrained=true: the file of the weights of {name} in TORCH_HOME holds more than tensors, which "
            "could run code; remove it, and it is downloaded again"
        ) from None
    # Pretrained weights can only be loaded with the auxiliary head, so it is switched off afterwards.
    if hasattr(network, "aux_logits"):
        network.aux_logits = False  # type: ignore[assignment]
    _replace_head(network, num_classes)
    return network


def _replace_head(network: nn.Module, num_classes: int) -> None:
    """Replace the last layer, which in torchvision is the last Linear or 1×1 Conv2d that is defined."""
    path, head = [(path, part) for path, part in network.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)][-1]
    new: nn.Module
    if isinstance(head, nn.Linear):
        new = nn.Linear(head.in_features, num_classes)
    else:
        new = nn.Conv2d(head.in_channels, num_classes, kernel_size=1)
    network.set_submodule(path, new)


def _replace_dropout(network: nn.Module) -> None:
    """Replace torchvision's random modules by ours, which draw from a given generator."""
    from torchvision.ops import StochasticDepth

    for path, module in list(network.named_modules()):
        if isinstance(module, nn.Dropout):
            network.set_submodule(path, Dropout(module.p))
        elif isinstance(module, StochasticDepth):
            network.set_submodule(path, Dropout(module.p, unit="image"))


def _check_input(model: nn.Module, name: str, image_shape: ImageShape) -> None:
    height, width, channels = image_shape
    # Running one image is the test that holds for all networks of torchvision, whose least sizes differ. In evaluation
    # mode batch normalisation takes a single image and keeps its statistics.
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, channels, height, width))
    except (RuntimeError, AssertionError):
        raise SettingsError(
            f"train.architecture=torchvision/{name} does not take images of {height}×{width}; "
            "raise preprocess.size_px (most take 64, the vision transformers 224)"
        ) from None
    model.train()
