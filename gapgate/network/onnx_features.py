"""Feature extractors that the user has as an ONNX file: their nodes become part of the graph that is served.

ONNX Runtime computes them in training too, so they are never trained further.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnx import inliner, version_converter
from torch import Tensor, nn

from gapgate.errors import SettingsError
from gapgate.network.architecture import ImageShape

OPSET = 17
"""Version of the operators in every graph that is written. It has every operator of our layers, and ONNX Runtime reads
it since 1.12."""
_DOMAIN, _OPERATOR = "gapgate", "Features"
"""The operator that stands for the extractor's nodes until `inlined` puts them in its place."""


class OnnxFeatures(nn.Module):
    """Extractor of features: (N, 3, H, W) float32, normalised → (N, num_features) float32."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        super().__init__()
        self.graph = graph
        self.num_weights = sum(math.prod(tensor.dims) for tensor in graph.graph.initializer)
        self._session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        self.num_features = self._compute(torch.zeros(1, *self.input_shape)).shape[1]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image; 224 where the file leaves a side open."""
        channels, height, width = _sizes(self.graph)[1:]
        return channels or 3, height or 224, width or 224

    def check(self, image_shape: ImageShape, name: str) -> None:
        """Refuse images (H, W, C) of another size than the file has.

        Raises:
            SettingsError: with the size to set.
        """
        _, _, height, width = _sizes(self.graph)
        if (height or image_shape[0], width or image_shape[1]) != image_shape[:2]:
            raise SettingsError(
                f"train.backbone={name} takes images of {height} x {width} px, not {image_shape[0]} x "
                f"{image_shape[1]}; set preprocess.size_px={height}"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features (N, num_features) of images (N, 3, H, W)."""
        found: Tensor = _Computed.apply(images, self)
        return found

    def _compute(self, images: Tensor) -> Tensor:
        name = self.graph.graph.input[0].name
        (found, *_) = self._session.run(None, {name: images.detach().cpu().contiguous().numpy()})
        return torch.from_numpy(found).flatten(1).to(images.device)

    def __deepcopy__(self, memo: object) -> OnnxFeatures:
        return self  # nothing of it ever changes


class _Computed(torch.autograd.Function):
    """The operator that the export writes for an extractor."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, extractor: OnnxFeatures) -> Tensor:
        if torch.onnx.is_in_onnx_export():  # the export looks at shapes alone
            return images.new_zeros(images.shape[0], extractor.num_features)
        return extractor._compute(images)

    @staticmethod
    def symbolic(graph: Any, images: Any, extractor: OnnxFeatures) -> Any:
        found = graph.op(f"{_DOMAIN}::{_OPERATOR}", images)
        # The exporter knows nothing of our operator, and the layer after it needs the number of features.
        found.setType(images.type().with_sizes([None, extractor.num_features]))
        return found


def read(path: Path) -> tuple[OnnxFeatures, bytes]:
    """Read an extractor from an ONNX file; returns it with the bytes of the file.

    Raises:
        SettingsError: the file cannot be read, or is no extractor of features for any number of images.
    """
    try:
        content = path.read_bytes()
        graph = onnx.load_model_from_string(content)
    except OSError as error:
        raise SettingsError(f"train.backbone={path}: cannot read it: {error.strerror}") from None
    except Exception:  # protobuf's DecodeError, which onnx wraps differently from version to version
        raise SettingsError(f"train.backbone={path} is no ONNX file; export the network again") from None
    if problem := _problem(graph):
        raise SettingsError(f"train.backbone={path}: {problem}")
    try:
        graph = version_converter.convert_version(graph, OPSET) if _opset(graph) != OPSET else graph
        return OnnxFeatures(graph), content
    except SettingsError:
        raise
    except Exception as error:  # onnx and ONNX Runtime have many kinds for a graph that they cannot take
        reason = " ".join(str(error).split())[:120]
        raise SettingsError(f"train.backbone={path} cannot be run ({reason}); export it with opset {OPSET}") from None


def normalisation(path: Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation (3,) of the pixels in 0..1, from the JSON file of the same name beside an ONNX file;
    None where there is none.

    Raises:
        SettingsError: the file does not hold three of each.
    """
    file = path.with_suffix(".json")
    if not file.exists():
        return None
    try:
        described = json.loads(file.read_bytes())
        mean, std = (tuple(float(value) for value in described[name]) for name in ("mean", "std"))
        if len(mean) == len(std) == 3 and min(std) > 0:
            return mean, std
    except (ValueError, KeyError, TypeError):
        pass
    raise SettingsError(f'{file} must hold {{"mean": [r, g, b], "std": [r, g, b]}} of pixels in 0..1')


def inlined(model: onnx.ModelProto, network: nn.Module) -> onnx.ModelProto:
    """Put the nodes of the network's extractor, if it has one, where its operator stands in an exported graph."""
    extractor = next((part for part in network.modules() if isinstance(part, OnnxFeatures)), None)
    if extractor is None:
        return model
    graph = extractor.graph.graph
    # A function has no initializers in ONNX (FunctionProto), so the weights become Constant nodes of it.
    weights = [onnx.helper.make_node("Constant", [], [each.name], value=each) for each in graph.initializer]
    flat = onnx.helper.make_node("Flatten", [graph.output[0].name], ["gapgate_features"], axis=1)
    function = onnx.helper.make_function(
        _DOMAIN,
        _OPERATOR,
        [graph.input[0].name],
        ["gapgate_features"],
        [*weights, *graph.node, flat],
        extractor.graph.opset_import,
    )
    model.functions.append(function)
    model.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))
    found = inliner.inline_local_functions(model)
    _lift_weights(found.graph)
    # No operator of our own domain is left, so a reader of the file need not know it.
    del found.opset_import[:]
    found.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    return found


def num_weights(network: nn.Module) -> int:
    """Number of weights in a network's extractor; 0 without one."""
    return sum(part.num_weights for part in network.modules() if isinstance(part, OnnxFeatures))


def _lift_weights(graph: onnx.GraphProto) -> None:
    """Make initializers of the constants that a function had to have in their place: one where the extractor, and so
    each of them, stands twice."""
    constants = [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    names: dict[bytes, str] = {}
    renamed: dict[str, str] = {}
    for node in constants:
        tensor = onnx.TensorProto.FromString(node.attribute[0].t.SerializeToString())
        # Compared without their names: equal weights become one initializer.
        tensor.name = ""
        content = tensor.SerializeToString()
        graph.node.remove(node)
        if content in names:
            renamed[node.output[0]] = names[content]
            continue
        names[content] = tensor.name = node.output[0]
        graph.initializer.append(tensor)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]


def _problem(graph: onnx.ModelProto) -> str:
    """Why a graph is no extractor of features; empty if it is one."""
    outside = onnx.TensorProto.EXTERNAL
    if any(tensor.data_location == outside for tensor in graph.graph.initializer):
        return "its weights are in a second file; save it as one file"
    names = {tensor.name for tensor in graph.graph.initializer}
    inputs = [each for each in graph.graph.input if each.name not in names]
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        return "it must have one input, float32 images (N, 3, height, width)"
    sizes = _sizes(graph)
    if len(sizes) != 4 or sizes[1] not in (0, 3):
        return "it must have one input, float32 images (N, 3, height, width)"
    if sizes[0]:
        return f"it takes exactly {sizes[0]} images at a time; export it with a dynamic batch axis"
    return ""


def _sizes(graph: onnx.ModelProto) -> tuple[int, ...]:
    """Sizes of the input; 0 for one that is open."""
    names = {tensor.name for tensor in graph.graph.initializer}
    images = next(each for each in graph.graph.input if each.name not in names)
    return tuple(size.dim_value for size in images.type.tensor_type.shape.dim)


def _opset(graph: onnx.ModelProto) -> int:
    return next((each.version for each in graph.opset_import if each.domain in ("", "ai.onnx")), 0)
