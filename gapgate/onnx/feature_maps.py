"""Filters of the first convolution and feature maps of the layers of an ONNX network, for the evaluation's report."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from gapgate.onnx.inner_layers import FeatureMaps
from gapgate.onnx.inner_layers_export import open_inner_layers

MAX_LAYERS = 24
"""Largest number of layers in the picture, a row each; of a deeper network the first ones are shown."""


def first_filters(model: onnx.ModelProto) -> NDArray[np.float32] | None:
    """Return the weights (filters, channels, kernel height, kernel width) of the first 2-D convolution, or None."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in weights:
            filters: NDArray[np.float32] = numpy_helper.to_array(weights[node.input[1]])
            return filters if filters.ndim == 4 else None
    return None


def early_feature_maps(model: onnx.ModelProto, image: NDArray[np.uint8]) -> list[FeatureMaps]:
    """Compute the feature maps of one image (H, W, C) uint8 in the first `MAX_LAYERS` layers that have any.

    The list is empty for a network without a convolution.
    """
    return open_inner_layers(model).feature_maps(image, MAX_LAYERS)
