"""Real ONNX models and Splits artifacts for tests, made without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier

from gapgate.data.splits import Splits
from gapgate.onnx.classifier import Classifier

DIGITS_SHAPE = (8, 8, 1)
SHARPNESS = 4.0
"""Makes the confidences of a ridge regression, whose targets are -1 and 1, spread over 0..1."""


@cache
def digits() -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """The 1,797 scans of scikit-learn: images (N, 8, 8, 1) uint8 and labels (N,)."""
    bunch = load_digits()
    return (bunch.images * 15.9375).astype(np.uint8)[..., None], bunch.target.astype(np.int32)


def write_linear(
    path: Path,
    weights: NDArray[np.float64],
    bias: NDArray[np.float64],
    image_shape: tuple[int, int, int],
    input_type: int = TensorProto.UINT8,
) -> None:
    """logits = flatten(images / 255) @ weights + bias; weights (H·W·C, K), bias (K,)."""
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["scaled"]),
        helper.make_node("Flatten", ["scaled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"]),
    ]
    tensors = {"scale": np.float32(255), "weights": weights, "bias": bias}
    _save(path, nodes, tensors, image_shape, len(bias), input_type)


def write_cnn(
    path: Path, filters: NDArray[np.float64], weights: NDArray[np.float64], image_shape: tuple[int, int, int]
) -> None:
    """Convolution (F, C, 3, 3) → ReLU → max pool → dense, as torch exports it; weights (F·H/2·W/2, K)."""
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["channels_first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["channels_first", "filters"], ["conv"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("MaxPool", ["relu"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    tensors = {"scale": np.float32(255), "filters": filters, "weights": weights}
    _save(path, nodes, tensors, image_shape, weights.shape[1], TensorProto.UINT8)


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    tensors: dict[str, NDArray[np.float64]],
    image_shape: tuple[int, int, int],
    num_classes: int,
    input_type: int,
) -> None:
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("images", input_type, ["n", *image_shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", num_classes])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def fit_linear(path: Path, images: NDArray[np.uint8], labels: NDArray[np.int32], strength: float = 1.0) -> Classifier:
    """Ridge regression on pixels; a larger `strength` fits the given images more closely."""
    fitted = RidgeClassifier(alpha=1 / strength).fit(images.reshape(len(images), -1) / 255, labels)
    write_linear(path, SHARPNESS * fitted.coef_.T, SHARPNESS * fitted.intercept_, images.shape[1:])
    return Classifier.load(path)


def fit_cnn(path: Path, images: NDArray[np.uint8], labels: NDArray[np.int32], num_filters: int = 8) -> Classifier:
    """Random filters, and ridge regression on the pooled maps that ONNX Runtime itself gives for them."""
    height, width, channels = images.shape[1:]
    filters = np.random.default_rng(0).normal(size=(num_filters, channels, 3, 3))
    num_features = num_filters * (height // 2) * (width // 2)
    write_cnn(path, filters, np.eye(num_features), (height, width, channels))
    features = Classifier.load(path).logits(images)
    fitted = RidgeClassifier(fit_intercept=False).fit(features, labels)
    write_cnn(path, filters, SHARPNESS * fitted.coef_.T, (height, width, channels))
    return Classifier.load(path)


def write_splits(
    folder: Path,
    images: NDArray[np.uint8],
    labels: NDArray[np.int32],
    class_names: Sequence[str],
    sizes: tuple[int, int],
    groups: Sequence[str | None] | None = None,
) -> Splits:
    """A Splits artifact whose first `sizes[0]` rows are train, the next `sizes[1]` val and the rest test."""
    folder.mkdir(parents=True)
    num_train, num_val = sizes
    names = np.array(["train"] * num_train + ["val"] * num_val + ["test"] * (len(images) - num_train - num_val))
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    for name in ("train", "val", "test"):
        np.save(folder / f"{name}.npy", np.flatnonzero(names == name))
    index = {
        "row": np.arange(len(images)),
        "id": [f"image {row}" for row in range(len(images))],
        "split": names,
        "content_hash": [f"{row:032x}" for row in range(len(images))],
        "width": np.full(len(images), images.shape[2], np.int32),
        "height": np.full(len(images), images.shape[1], np.int32),
        "group": pa.array(groups if groups is not None else [None] * len(images), pa.string()),
    }
    pq.write_table(pa.table(index), folder / "index.parquet")
    (folder / "splits.json").write_text(json.dumps({"class_names": list(class_names)}))
    return Splits.open(folder)


def write_model_files(folder: Path, model: Classifier, images: NDArray[np.uint8], num_epochs: int = 12) -> None:
    """What stands beside `model.onnx` in a Model artifact: parity, a history whose loss turns, and the architecture."""
    save_file({"images": np.ascontiguousarray(images), "logits": model.logits(images)}, folder / "parity.safetensors")
    epochs = range(1, num_epochs + 1)
    history = [
        {
            "epoch": epoch,
            "train_loss": 1.6 / epoch,
            "train_accuracy": 1 - 0.4 / epoch,
            "val_loss": 0.3 + 0.02 * (epoch - 5) ** 2,
            "val_accuracy": 0.95 - 0.3 / epoch,
            "learning_rate": 0.001,
        }
        for epoch in epochs
    ]
    (folder / "history.json").write_text(json.dumps(history))
    (folder / "architecture.json").write_text(json.dumps({"num_parameters": 1234, "layers": [{"type": "dense"}]}))
