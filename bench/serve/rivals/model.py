"""The model as each rival answers with it: decoded as Gapgate does, one thread of ONNX Runtime."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapgate.data.transform import Transform
from gapgate.onnx.classifier import INPUT_NAME, OUTPUT_NAME, open_session, softmax

TOP_K = 5


class Model:
    """A package folder: `model.onnx`, `transform.json` and the class names in `architecture.json`."""

    def __init__(self, folder: Path) -> None:
        self.transform = Transform.from_file(folder / "transform.json")
        self.session = open_session(str(folder / "model.onnx"), num_threads=1)
        self.class_names: list[str] = json.loads((folder / "architecture.json").read_text())["class_names"]
        size, channels = self.transform.size_px, self.transform.channels
        self.image_shape = (size, size, channels)
        self.logits(np.zeros((1, *self.image_shape), np.uint8))  # the first call allocates

    @classmethod
    def from_environment(cls) -> Model:
        """The package that the benchmark names for the servers it starts."""
        return cls(Path(os.environ["BENCH_PACKAGE"]))

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """An image file as (H, W, C) uint8."""
        return self.transform.decode(data)

    def tensor(self, data: bytes) -> NDArray[np.uint8]:
        """The H·W·C bytes of a body as (H, W, C) uint8."""
        return np.frombuffer(data, np.uint8).reshape(self.image_shape)

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, C) uint8 → (N, num_classes)."""
        result: NDArray[np.float32] = self.session.run([OUTPUT_NAME], {INPUT_NAME: images})[0]
        return result

    def answer(self, image: NDArray[np.uint8]) -> dict[str, Any]:
        """The answer to one image (H, W, C), ready for JSON."""
        probabilities = softmax(self.logits(image[np.newaxis]))[0]  # (num_classes,)
        ranked = np.argsort(-probabilities)[:TOP_K].tolist()
        return {
            "class": self.class_names[ranked[0]],
            "confidence": float(probabilities[ranked[0]]),
            "probabilities": {self.class_names[index]: float(probabilities[index]) for index in ranked},
        }
