"""What happens inside the network: the feature maps of its layers, and the embedding that its classifier reads.

A package holds `inner_layers.json`, the names and shapes, and `inner_layers.pb`, a serialized ONNX model with nothing
but those tensors as graph outputs. Protocol Buffers merges messages that stand one after the other, so the bytes of
`model.onnx` followed by these are the same model with further outputs: no weight is stored twice, and no onnx package
is needed to read them. NumPy and ONNX Runtime only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapgate.errors import ArtifactError, DataError
from gapgate.onnx.classifier import INPUT_NAME, open_session

NAMES_FILE = "inner_layers.json"
OUTPUTS_FILE = "inner_layers.pb"


@dataclass(frozen=True, slots=True)
class FeatureMaps:
    """What one layer makes of one image."""

    layer: str
    """`1 convolution`"""
    maps: NDArray[np.float32]
    """(C, H, W)"""


class InnerLayers:
    """A network's layers with feature maps, and its embedding.

    The session with the further outputs is opened at the first use: most servers are never asked for it, and it holds
    the weights once more. Calls from several threads at once are safe.
    """

    embedding_size: int | None
    """D0, the numbers that the classifier reads of one image; None where the network ends without a dense layer."""

    def __init__(
        self, names: Mapping[str, Any], outputs: bytes, read_model: Callable[[], bytes], num_threads: int = 1
    ) -> None:
        """Inner layers of the model that `read_model` gives as an ONNX file's bytes, with `num_threads` for each call.

        Args:
            names: the content of `inner_layers.json`.
            outputs: the content of `inner_layers.pb`.
        """
        self.embedding_size = names["embedding_size"]
        self._embedding: str | None = names["embedding"]
        self._layers: list[dict[str, Any]] = names["layers"]
        self._outputs = outputs
        self._read_model = read_model
        self._num_threads = num_threads
        self._session: Any = None
        self._lock = Lock()

    @classmethod
    def load(cls, folder: Path) -> InnerLayers:
        """Of a package's folder, where the two files lie beside `model.onnx`.

        Raises:
            ArtifactError: one of them is missing.
        """
        try:
            names = json.loads((folder / NAMES_FILE).read_text())
            return cls(names, (folder / OUTPUTS_FILE).read_bytes(), (folder / "model.onnx").read_bytes)
        except FileNotFoundError as error:
            raise ArtifactError(f"{error.filename} is missing; package the model again") from None

    def feature_maps(self, image: NDArray[np.uint8], max_layers: int | None = None) -> list[FeatureMaps]:
        """What the first `max_layers` layers, or all, make of one image (H, W, C) uint8; empty without convolutions."""
        layers = self._layers[:max_layers]
        if not layers:
            return []
        tensors = self._run([layer["tensor"] for layer in layers], image[np.newaxis])
        return [
            FeatureMaps(layer["name"], tensor[0].astype(np.float32, copy=False))
            for layer, tensor in zip(layers, tensors, strict=True)
        ]

    def embeddings(self, images: NDArray[np.uint8], batch_size: int = 250) -> NDArray[np.float32]:
        """What the classifier reads of images (N, H, W, C) uint8: (N, embedding_size) float32, as it is.

        Raises:
            DataError: the network has no embedding.
        """
        if self._embedding is None or self.embedding_size is None:
            raise DataError("the network ends without a dense layer, so it has no embedding; train one with `dense`")
        embeddings = np.empty((len(images), self.embedding_size), np.float32)
        for start in range(0, len(images), batch_size):
            stop = start + batch_size
            embeddings[start:stop] = self._run([self._embedding], images[start:stop])[0]
        return embeddings

    def _run(self, tensors: list[str], images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        outputs: list[NDArray[Any]] = self._opened().run(tensors, {INPUT_NAME: np.ascontiguousarray(images)})
        return outputs

    def _opened(self) -> Any:
        with self._lock:
            if self._session is None:
                self._session = open_session(self._read_model() + self._outputs, self._num_threads)
            return self._session


def stretched(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each map (C, H, W) from its own least to its own greatest value, as 0..1."""
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    scaled: NDArray[np.float32] = (maps - low) / np.maximum(high - low, 1e-12)
    return scaled
