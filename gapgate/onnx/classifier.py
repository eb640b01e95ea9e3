"""The ONNX model as a function from uint8 images to logits: the one way that evaluation and serving run a model.

The graph normalises its own input, so a caller has nothing to prepare and nothing to get wrong. This module needs
numpy and onnxruntime alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapgate.errors import ArtifactError, DataError

# Read when it is imported: from 1.29 on it reports each loaded model to its maker unless told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

INPUT_NAME = "images"
OUTPUT_NAME = "logits"


def open_session(model: str | bytes, num_threads: int = 1) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU, of a file's path or its bytes."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # warnings about the graph are nothing a user can act on
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True, slots=True)
class Classifier:
    """A loaded `model.onnx`. Calls from several threads at once are safe, as ONNX Runtime's sessions are."""

    session: Any
    """The `onnxruntime.InferenceSession`."""
    image_shape: tuple[int, int, int]
    """(H, W, C)"""
    num_classes: int

    @classmethod
    def load(cls, path: Path | str, num_threads: int = 1) -> Classifier:
        """Open a model on the CPU with `num_threads` threads for each call.

        Raises:
            ArtifactError: no such file, no ONNX model, or another input or output than images (N, H, W, C) uint8 and
                logits (N, K) float32.
        """
        if not Path(path).is_file():
            raise ArtifactError(f"{path} is missing; run the train step")
        try:
            session = open_session(str(path), num_threads)
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            reason = " ".join(str(error).split())[:200]
            raise ArtifactError(f"{path} is not a model that ONNX Runtime can run ({reason}); train again") from None
        return cls(session, *_signature(session, path))

    def logits(self, images: NDArray[np.uint8], batch_size: int = 250) -> NDArray[np.float32]:
        """Run the model.

        Args:
            images: (N, H, W, C) uint8; N may be 0.
            batch_size: images in a call; 250 took a third of the time of 1,000 on the Fashion-MNIST CNN.

        Returns:
            (N, num_classes) float32.

        Raises:
            DataError: images of another shape or type.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
            found = f"{shape_text(images.shape[1:])} {images.dtype}"
            raise DataError(
                f"images of {found} do not fit the model, which takes {shape_text(self.image_shape)} uint8; "
                "preprocess them as for training"
            )
        logits = np.empty((len(images), self.num_classes), np.float32)
        for start in range(0, len(images), batch_size):
            batch = np.ascontiguousarray(images[start : start + batch_size])
            logits[start : start + batch_size] = self.session.run([OUTPUT_NAME], {INPUT_NAME: batch})[0]
        return logits


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities (N, K) of logits (N, K); the largest logit is taken off first, so that no exponential overflows."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    probabilities: NDArray[np.float32] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def shape_text(shape: tuple[int, ...]) -> str:
    """`28×28×1`"""
    return "×".join(str(size) for size in shape)


def _signature(session: Any, path: Path | str) -> tuple[tuple[int, int, int], int]:
    """The image shape (H, W, C) and the number of classes that the graph states."""
    found = [(value.name, value.type, value.shape) for value in [*session.get_inputs(), *session.get_outputs()]]
    match found:
        case [
            ("images", "tensor(uint8)", [_, int(height), int(width), int(channels)]),
            ("logits", "tensor(float)", [_, int(num_classes)]),
        ]:
            return (height, width, channels), num_classes
    raise ArtifactError(
        f"{path} has the input and output {found}; needed are images (N, H, W, C) uint8 and logits (N, K) float32"
    )
