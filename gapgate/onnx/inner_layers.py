"""Inner layers of a network: the feature maps of its layers, and the embedding, the input of its last dense layer.

A package holds `inner_layers.json`, the names and shapes, and `inner_layers.pb`, a serialized ONNX model with only
those tensors as graph outputs. Protocol Buffers merges messages whose bytes are concatenated (encoding specification,
"Last One Wins"), so the bytes of `model.onnx` followed by those of `inner_layers.pb` are the same model with further
outputs: no weight is stored twice, and no onnx package is needed to read them. NumPy and ONNX Runtime only.
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
    """Output of one layer for one image."""

    layer: str
    """Name with its number, such as `1 convolution`."""
    maps: NDArray[np.float32]
    """Feature maps, (C, H, W)."""


class InnerLayers:
    """Layers of a network that have feature maps, and its embedding.

    The session with the further outputs is opened at the first use: most servers are never asked for it, and it holds
    the weights a second time. Several threads may call the methods at once.
    """

    embedding_size: int | None
    """Length D0 of the embedding of one image; None if the network ends without a dense layer."""

    def __init__(
        self, names: Mapping[str, Any], outputs: bytes, read_model: Callable[[], bytes], num_threads: int = 1
    ) -> None:
        """Keep what is needed to open the session.

        Args:
            names: content of `inner_layers.json`.
            outputs: content of `inner_layers.pb`.
            read_model: returns the bytes of the ONNX file; called at the first use.
            num_threads: threads of each call.
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
        """Read the two files in a package's folder, beside `model.onnx`.

        Raises:
            ArtifactError: one of the files is missing.
        """
        try:
            names = json.loads((folder / NAMES_FILE).read_text())
            return cls(names, (folder / OUTPUTS_FILE).read_bytes(), (folder / "model.onnx").read_bytes)
        except FileNotFoundError as error:
            raise ArtifactError(f"{error.filename} is missing; package the model again") from None

    def feature_maps(self, image: NDArray[np.uint8], max_layers: int | None = None) -> list[FeatureMaps]:
        """Compute the feature maps of one image (H, W, C) uint8 in the first `max_layers` layers, or in all.

        The list is empty for a network without a convolution.
        """
        layers = self._layers[:max_layers]
        if not layers:
            return []
        tensors = self._run([layer["tensor"] for layer in layers], image[np.newaxis])
        return [
            FeatureMaps(layer["name"], tensor[0].astype(np.float32, copy=False))
            for layer, tensor in zip(layers, tensors, strict=True)
        ]

    def embeddings(self, images: NDArray[np.uint8], batch_size: int = 250) -> NDArray[np.float32]:
        """Compute the embeddings of images (N, H, W, C) uint8: (N, embedding_size) float32, not scaled.

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
        # Two requests may come at once; each session of its own would hold the weights once more. Running it needs no
        # lock: ONNX Runtime's sessions are thread-safe.
        with self._lock:
            if self._session is None:
                self._session = open_session(self._read_model() + self._outputs, self._num_threads)
            return self._session


def stretched(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stretch each map of (C, H, W) to 0..1, from its own least to its own greatest value."""
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    # A constant map, such as one of a dead ReLU, becomes 0 instead of NaN.
    scaled: NDArray[np.float32] = (maps - low) / np.maximum(high - low, 1e-12)
    return scaled
