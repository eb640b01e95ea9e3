"""Search for the layers and the embedding in an ONNX graph, and the files that `gapgate.onnx.inner_layers` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from gapgate.artifacts import write_json
from gapgate.onnx.classifier import INPUT_NAME, open_session
from gapgate.onnx.inner_layers import NAMES_FILE, OUTPUTS_FILE, InnerLayers

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
"""ONNX operator → name of the layer for a reader."""


def write_inner_layers(model_path: Path, folder: Path) -> None:
    """Write `inner_layers.json` and `inner_layers.pb` of an ONNX model into `folder`; equal models give equal bytes."""
    names, outputs = _find(onnx.load(model_path))
    write_json(folder / NAMES_FILE, names)
    (folder / OUTPUTS_FILE).write_bytes(outputs)


def open_inner_layers(model: onnx.ModelProto) -> InnerLayers:
    """Open the inner layers of an ONNX model that is in no package yet."""
    names, outputs = _find(model)
    return InnerLayers(names, outputs, model.SerializeToString)


def open_embedding(model: onnx.ModelProto, num_threads: int = 1) -> InnerLayers:
    """Open the embedding without the feature maps, with `num_threads` threads for each call."""
    # ONNX Runtime fuses layers whose outputs are not asked for; with the maps the tutorial CNN took 1.5 times as long.
    names = _find(model)[0] | {"layers": []}
    embedding = names["embedding"]
    outputs = _outputs(model, [embedding] * (embedding is not None))
    return InnerLayers(names, outputs, model.SerializeToString, num_threads)


def _find(model: onnx.ModelProto) -> tuple[dict[str, Any], bytes]:
    """Compute the contents of `inner_layers.json` and `inner_layers.pb`."""
    nodes, head = _layer_nodes(model.graph), _head_input(model.graph)
    shapes = shapes_of(model, [node.output[0] for node in nodes] + [head] * (head is not None))
    # (C, 1, 1), as between the layers of a squeeze-and-excitation block, is no picture.
    maps = [node for node in nodes if len(shape := shapes[node.output[0]]) == 3 and shape[1:] != [1, 1]]
    embedding = head if head is not None and len(shapes[head]) == 1 else None
    layers = [
        {"name": f"{number} {LAYER_NAMES[node.op_type]}", "tensor": node.output[0], "shape": shapes[node.output[0]]}
        for number, node in enumerate(maps, start=1)
    ]
    names = {"layers": layers, "embedding": embedding, "embedding_size": embedding and shapes[embedding][0]}
    return names, _outputs(model, [layer["tensor"] for layer in layers] + [embedding] * (embedding is not None))


def answering_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """List the nodes that lead to the last layer with weights, and all after it, in the graph's order.

    It leaves out the branch of the mirror image, which stands first, where a network's answer is the mean for an image
    and its mirror image.
    """
    weighted = [index for index, node in enumerate(graph.node) if node.op_type in ("Conv", "Gemm", "MatMul")]
    last = max(weighted, default=-1)
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    # Backwards from the last layer with weights, with a stack of our own: a graph may be deeper than the 1,000 calls
    # that Python lets a recursion go.
    kept, open_ends = set(range(last + 1, len(graph.node))), [last] * (last >= 0)
    while open_ends:
        index = open_ends.pop()
        if index not in kept:
            kept.add(index)
            open_ends += [makers[name] for name in graph.node[index].input if name in makers]
    return [node for index, node in enumerate(graph.node) if index in kept]


def _layer_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """List the layers from the first convolution on; the nodes before it normalise the pixels."""
    nodes = [node for node in answering_nodes(graph) if node.op_type in LAYER_NAMES and node.output[0]]
    first = next((index for index, node in enumerate(nodes) if node.op_type == "Conv"), len(nodes))
    return nodes[first:]


def _head_input(graph: onnx.GraphProto) -> str | None:
    """Return the name of the tensor that the last dense layer reads, or None without a dense layer."""
    head = next((node for node in reversed(graph.node) if node.op_type in ("Gemm", "MatMul")), None)
    # The weights of a Gemm or MatMul are initializers of the graph; the operand that is none is computed.
    weights = {tensor.name for tensor in graph.initializer}
    return next((name for name in head.input if name not in weights), None) if head else None


def shapes_of(model: onnx.ModelProto, tensors: list[str]) -> dict[str, list[int]]:
    """Find the shape of each tensor for one image, without its first axis, by running a black image."""
    if not tensors:
        return {}
    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    session = open_session(model.SerializeToString() + _outputs(model, tensors))
    found = session.run(tensors, {INPUT_NAME: np.zeros((1, *shape), np.uint8)})
    return {name: list(tensor.shape[1:]) for name, tensor in zip(tensors, found, strict=True)}


def _outputs(model: onnx.ModelProto, tensors: list[str]) -> bytes:
    """Serialize an ONNX model that has only graph outputs; appended to a model's bytes, it adds them to that model."""
    known = {value.name for value in model.graph.output}
    # A graph may not name an output twice: the embedding can be a layer's output or the model's own.
    added = [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(tensors) if name not in known]
    outputs: bytes = onnx.ModelProto(graph=onnx.GraphProto(output=added)).SerializeToString()
    return outputs
