"""Description of the layers of an ONNX network for a reader: what each does, the shape of its output, its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

from gapgate.onnx.inner_layers_export import LAYER_NAMES, answering_nodes, shapes_of

_NAMES = LAYER_NAMES | {
    "GlobalAveragePool": "global average pool",
    "ReduceMean": "global average pool",
    "Flatten": "flatten",
    "Reshape": "flatten",
    "Gemm": "dense",
    "MatMul": "dense",
}
_WORDS = {
    "BatchNormalization": "each map scaled and shifted by what training saw",
    "Relu": "negative values become 0",
    "LeakyRelu": "negative values shrink",
    "Sigmoid": "each value into 0 to 1",
    "Tanh": "each value into −1 to 1",
    "Gelu": "negative values fade to 0",
    "GlobalAveragePool": "the mean of each map",
    "ReduceMean": "the mean of each map",
    "Flatten": "all values in one row",
    "Reshape": "all values in one row",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """One step from the image to the answer."""

    name: str
    """Name with its number, such as `1 convolution`."""
    does: str
    """Short description of the operation."""
    shape: tuple[int, ...]
    """Shape of the output for one image: (H, W, C) for feature maps, (n,) after them."""
    num_weights: int = 0
    size_words: tuple[str, ...] = ()
    """Calculation of the output's sides from the input's: a line for both sides, or one for each if they differ."""
    weights_words: str = ""
    """Calculation of the number of weights, such as `3·3·1·32 + 32`."""

    @property
    def size(self) -> str:
        """Shape as text, such as `28×28×32`."""
        return "×".join(f"{side:,}" for side in self.shape)


def graph_layers(model: onnx.ModelProto) -> list[Stage]:
    """List the layers, from the first one with weights on.

    Layers with feature maps have the same numbers and names as in `gapgate.onnx.inner_layers_export`.
    """
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        # torch's exporter writes equal tensors once and refers to them by Identity; two new layers both have biases 0.
        if node.op_type == "Identity" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    nodes = [node for node in answering_nodes(model.graph) if node.op_type in _NAMES and node.output[0]]
    shapes = shapes_of(model, list({name for node in nodes for name in (node.input[0], node.output[0])}))
    nodes = [node for node in nodes if not _is_reshape_within(node, shapes)]
    # The nodes before the first layer with weights scale the pixels, which a reader takes for part of the input.
    first = next((at for at, node in enumerate(nodes) if node.op_type in ("Conv", "Gemm", "MatMul")), len(nodes))
    stages, number = [], 0
    for node in nodes[first:]:
        shape = shapes[node.output[0]]
        if node.op_type in LAYER_NAMES and len(shape) == 3 and shape[1:] != [1, 1]:
            number += 1
            name = f"{number} {LAYER_NAMES[node.op_type]}"
        else:
            name = _NAMES[node.op_type]
        stages.append(_stage(name, node, shapes[node.input[0]], shape, weights, model.graph))
    return stages


def _is_reshape_within(node: onnx.NodeProto, shapes: Mapping[str, list[int]]) -> bool:
    """True for a reshape that is no flattening (as in a channel shuffle) or that changes nothing."""
    shape = shapes[node.output[0]]
    return node.op_type in ("Reshape", "Flatten") and (len(shape) != 1 or shape == shapes[node.input[0]])


def _stage(
    name: str,
    node: onnx.NodeProto,
    given: list[int],
    shape: list[int],
    weights: Mapping[str, tuple[int, ...]],
    graph: onnx.GraphProto,
) -> Stage:
    # ONNX holds maps as (C, H, W) and kernels as (filters, C, h, w); a reader expects the channels last.
    size = (*shape[1:], shape[0]) if len(shape) == 3 else tuple(shape)
    operands = [weights[operand] for operand in node.input[1:] if operand in weights]
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    match node.op_type:
        case "Conv":
            filters, *window = operands[0]
            does = f"{filters} filters of {'×'.join(map(str, (*window[1:], window[0])))}, each slid over the maps"
            added = sum(map(math.prod, operands[1:]))
            words = f"{'·'.join(map(str, (*window[1:], window[0], filters)))}" + f" + {added}" * bool(added)
            count = math.prod(operands[0]) + added
            return Stage(name, does, size, count, _sizes(attributes, given, window[1:]), words)
        case "MaxPool" | "AveragePool":
            window = list(attributes["kernel_shape"])
            kind = "largest" if node.op_type == "MaxPool" else "mean"
            return Stage(
                name, f"the {kind} of each {window[0]}×{window[1]}", size, 0, _sizes(attributes, given, window)
            )
        case "Gemm" | "MatMul":
            # Gemm has its bias as an operand; a MatMul is followed by an Add.
            added = sum(map(math.prod, operands[1:])) or _bias(node, graph, weights)
            words = f"{given[0]:,}·{shape[0]:,}" + f" + {added:,}" * bool(added)
            does = f"each of {shape[0]:,} units weighs all {given[0]:,} values"
            return Stage(name, does, size, math.prod(operands[0]) + added, (), words)
        case "BatchNormalization":
            # Scale and shift of each channel. The running mean and variance are operands too, but not learned.
            return Stage(name, _WORDS[node.op_type], size, 2 * shape[0], (), f"2·{shape[0]}")
        case other:
            return Stage(name, _WORDS[other], size)


def _sizes(attributes: Mapping[str, Any], given: list[int], window: list[int]) -> tuple[str, ...]:
    """Write out the calculation of height and width; empty where the graph pads or rounds by a rule of its own."""
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or attributes.get("ceil_mode"):
        return ()
    # `pads` is (top, left, bottom, right), all begins before all ends (ONNX operators, Conv).
    strides, pads = attributes.get("strides", [1, 1]), attributes.get("pads", [0, 0, 0, 0])
    # A dilated kernel spans more pixels than it reads (Dumoulin and Visin 2016, section 5.1).
    wide = [1 + (side - 1) * step for side, step in zip(window, attributes.get("dilations", [1, 1]), strict=True)]
    sides = [size_in_words(given[1 + at], wide[at], strides[at], (pads[at], pads[2 + at])) for at in (0, 1)]
    return both_sides(*sides)


def size_in_words(size: int, window: int, stride: int = 1, padding: tuple[int, int] = (0, 0)) -> str:
    """Write out the number of places of a window along a side: `(28 − 3) / 1 + 1 = 26`.

    `padding` is (before, after).
    """
    added = f" + {padding[0]} + {padding[1]}" if any(padding) else ""
    rest = size + sum(padding) - window
    found = rest // stride + 1
    rounded = f"{rest / stride + 1:g}, rounded down to " if rest % stride else ""
    return f"({size}{added} − {window}) / {stride} + 1 = {rounded}{found}"


def both_sides(height: str, width: str) -> tuple[str, ...]:
    """Return one line if the two are equal, else a line for each."""
    return (height,) if height == width else (f"height {height}", f"width {width}")


def _bias(node: onnx.NodeProto, graph: onnx.GraphProto, weights: Mapping[str, tuple[int, ...]]) -> int:
    """Count the bias values that an Add right after a matrix product adds."""
    after = next((other for other in graph.node if other.op_type == "Add" and node.output[0] in other.input), None)
    return sum(math.prod(weights[name]) for name in after.input if name in weights) if after else 0
