"""The ONNX model as a function from uint8 images to logits. Evaluation and serving both run a model through it.

The graph normalises its own input, so a caller passes pixels as they are. This module needs numpy and onnxruntime only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapgate.errors import ArtifactError, DataError

# ONNX Runtime reads the variable when it is imported: from 1.29 on it reports each loaded model to its maker otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

INPUT_NAME = "images"
OUTPUT_NAME = "logits"


def open_session(model: str | bytes, num_threads: int = 1) -> Any:
    """Open an `onnxruntime.InferenceSession` on the CPU, from the path of an ONNX file or its bytes."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: a user cannot act on warnings about the graph
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True, slots=True)
class Classifier:
    """A loaded `model.onnx`. Several threads may call it at once, as ONNX Runtime's sessions are thread-safe."""

    session: Any
    """Session of the model, an `onnxruntime.InferenceSession`."""
    image_shape: tuple[int, int, int]
    """Shape (H, W, C) of one image."""
    num_classes: int

    @classmethod
    def load(cls, path: Path | str, num_threads: int = 1) -> Classifier:
        """Open a model on the CPU with `num_threads` threads for each call.

        Raises:
            ArtifactError: the file is missing or no ONNX model, or its input and output are not images (N, H, W, C)
                uint8 and logits (N, K) float32.
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
        """Compute the logits of images.

        Args:
            images: (N, H, W, C) uint8; N may be 0.
            batch_size: images in a call of the session; 250 took a third of the time of 1,000 on the Fashion-MNIST CNN.

        Returns:
            (N, num_classes) float32.

        Raises:
            DataError: the images have another shape or type than the model takes.
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
    """Compute the probabilities (N, K) of logits (N, K)."""
    # The largest logit is subtracted first, which leaves the result as it is: exp(89) overflows float32. `initial` lets
    # an array without classes through.
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    probabilities: NDArray[np.float32] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def logit_scale(logits: NDArray[np.floating[Any]]) -> float:
    """Return the largest magnitude among logits (N, K), at least 1: the unit in which two computations of them agree.

    float32 keeps seven digits of a number. Logits of up to 15, of features at 224 px, differed by 9e-5 between PyTorch
    and ONNX Runtime; logits of 1 differ by 2e-6.
    """
    return float(np.abs(logits).max(initial=1.0))


def shape_text(shape: tuple[int, ...]) -> str:
    """Write a shape as text, such as `28×28×1`."""
    return "×".join(str(size) for size in shape)


def _signature(session: Any, path: Path | str) -> tuple[tuple[int, int, int], int]:
    """Read the image shape (H, W, C) and the number of classes from the graph's input and output."""
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
