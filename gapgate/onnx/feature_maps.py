"""What the layers of an ONNX network look for and make of an image, for the evaluation's report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from gapgate.onnx.inner_layers import FeatureMaps
from gapgate.onnx.inner_layers_export import open_inner_layers

MAX_LAYERS = 24
"""Rows of the picture; a deeper network is shown down to there."""


def first_filters(path: Path) -> NDArray[np.float32] | None:
    """The weights (filters, channels, kernel height, kernel width) of the first 2-D convolution; None without one."""
    graph = onnx.load(path).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in weights:
            filters: NDArray[np.float32] = numpy_helper.to_array(weights[node.input[1]])
            return filters if filters.ndim == 4 else None
    return None


def early_feature_maps(path: Path, image: NDArray[np.uint8]) -> list[FeatureMaps]:
    """What the first layers with feature maps, `MAX_LAYERS` at most, make of one image (H, W, C) uint8.

    A network without a convolution gives an empty list.
    """
    return open_inner_layers(path).feature_maps(image, MAX_LAYERS)
