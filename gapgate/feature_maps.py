"""What the first layers of an ONNX network look for, read from the graph itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from gapgate.inference import INPUT_NAME, open_session

LAYER_NAMES = {
    "Conv": "convolution",
    "BatchNormalization": "batch norm",
    "Relu": "ReLU",
    "LeakyRelu": "leaky ReLU",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Gelu": "GELU",
    "MaxPool": "max pool",
    "AveragePool": "average pool",
}
"""ONNX operators that are layers to a reader."""


@dataclass(frozen=True, slots=True)
class FeatureMaps:
    """What one layer makes of one image."""

    layer: str
    """`1 convolution`"""
    maps: NDArray[np.float32]
    """(C, H, W)"""


def first_filters(path: Path) -> NDArray[np.float32] | None:
    """The weights (filters, channels, kernel height, kernel width) of the first 2-D convolution; None without one."""
    graph = onnx.load(path).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in weights:
            filters: NDArray[np.float32] = numpy_helper.to_array(weights[node.input[1]])
            return filters if filters.ndim == 4 else None
    return None


def early_feature_maps(path: Path, image: NDArray[np.uint8], num_layers: int = 6) -> list[FeatureMaps]:
    """Run one image (H, W, C) and keep what the first layers with feature maps give, `num_layers` at most.

    The intermediate tensors are added to the graph's outputs. A network without a convolution gives an empty list.
    """
    model = onnx.load(path)
    layers = [node for node in model.graph.node if node.op_type in LAYER_NAMES and node.output[0]]
    first = next((index for index, node in enumerate(layers) if node.op_type == "Conv"), None)
    if first is None:
        return []
    layers = layers[first : first + num_layers]
    outputs = {value.name for value in model.graph.output}
    model.graph.output.extend(
        onnx.ValueInfoProto(name=node.output[0]) for node in layers if node.output[0] not in outputs
    )
    tensors = open_session(model.SerializeToString()).run(
        [node.output[0] for node in layers], {INPUT_NAME: np.ascontiguousarray(image[None])}
    )
    return [
        FeatureMaps(f"{number} {LAYER_NAMES[node.op_type]}", tensor[0])
        for number, (node, tensor) in enumerate(zip(layers, tensors, strict=True), start=1)
        if tensor.ndim == 4
    ]
