"""Finds the layers and the embedding in an ONNX graph and writes what `gapgate.onnx.inner_layers` reads."""

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
"""ONNX operators that are layers to a reader."""


def write_inner_layers(model_path: Path, folder: Path) -> None:
    """Write `inner_layers.json` and `inner_layers.pb` of an ONNX model into `folder`; equal models give equal bytes."""
    names, outputs = _find(onnx.load(model_path))
    write_json(folder / NAMES_FILE, names)
    (folder / OUTPUTS_FILE).write_bytes(outputs)


def open_inner_layers(model: onnx.ModelProto) -> InnerLayers:
    """The inner layers of an ONNX model that is in no package yet."""
    names, outputs = _find(model)
    return InnerLayers(names, outputs, model.SerializeToString)


def open_embedding(model: onnx.ModelProto, num_threads: int = 1) -> InnerLayers:
    """The embedding alone, with `num_threads` threads for each call. ONNX Runtime fuses layers whose maps nobody asks
    for; with the maps the tutorial CNN took 1.5 times as long."""
    names = _find(model)[0] | {"layers": []}
    embedding = names["embedding"]
    outputs = _outputs(model, [embedding] * (embedding is not None))
    return InnerLayers(names, outputs, model.SerializeToString, num_threads)


def _find(model: onnx.ModelProto) -> tuple[dict[str, Any], bytes]:
    """The contents of the two files."""
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
    """In the graph's order, without a branch that ends before the last layer with weights: where a network's answer is
    the mean for an image and its mirror image, the mirror image's, which stands first."""
    weighted = [index for index, node in enumerate(graph.node) if node.op_type in ("Conv", "Gemm", "MatMul")]
    last = max(weighted, default=-1)
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    kept, open_ends = set(range(last + 1, len(graph.node))), [last] * (last >= 0)
    while open_ends:
        index = open_ends.pop()
        if index not in kept:
            kept.add(index)
            open_ends += [makers[name] for name in graph.node[index].input if name in makers]
    return [node for index, node in enumerate(graph.node) if index in kept]


def _layer_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """From the first convolution on; what stands before it is the normalisation of the pixels."""
    nodes = [node for node in answering_nodes(graph) if node.op_type in LAYER_NAMES and node.output[0]]
    first = next((index for index, node in enumerate(nodes) if node.op_type == "Conv"), len(nodes))
    return nodes[first:]


def _head_input(graph: onnx.GraphProto) -> str | None:
    """What the last dense layer reads: all that its classifier knows of an image."""
    head = next((node for node in reversed(graph.node) if node.op_type in ("Gemm", "MatMul")), None)
    weights = {tensor.name for tensor in graph.initializer}
    return next((name for name in head.input if name not in weights), None) if head else None


def shapes_of(model: onnx.ModelProto, tensors: list[str]) -> dict[str, list[int]]:
    """The shape of each tensor for one image, without its first axis, found by running a black one."""
    if not tensors:
        return {}
    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    session = open_session(model.SerializeToString() + _outputs(model, tensors))
    found = session.run(tensors, {INPUT_NAME: np.zeros((1, *shape), np.uint8)})
    return {name: list(tensor.shape[1:]) for name, tensor in zip(tensors, found, strict=True)}


def _outputs(model: onnx.ModelProto, tensors: list[str]) -> bytes:
    """A model of graph outputs alone; a graph may not name one twice."""
    known = {value.name for value in model.graph.output}
    added = [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(tensors) if name not in known]
    outputs: bytes = onnx.ModelProto(graph=onnx.GraphProto(output=added)).SerializeToString()
    return outputs
