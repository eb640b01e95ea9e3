"""From an image file's bytes to the model's answer. The only module here that loads numpy, Pillow and ONNX Runtime."""

from __future__ import annotations

import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gapgate.errors import ArtifactError, GateError
from gapgate.inference import Classifier, softmax
from gapgate.receipt import verify
from gapgate.transform import FORMATS, Transform
from serving.schema import ModelVersion, Prediction


@dataclass(frozen=True, slots=True)
class Predictor:
    """A packaged model, ready to answer. Calls from several threads at once are safe."""

    transform: Transform
    classifier: Classifier
    class_names: tuple[str, ...]
    model: ModelVersion
    receipt: str
    """Digest of the receipt, given with each prediction."""

    @classmethod
    def load(cls, folder: Path) -> Predictor:
        """Open the `model` folder of a Bento and run it once, so that no request pays for the first call.

        Raises:
            ArtifactError: a file is missing, the graph does not fit the class names, or the receipt was changed.
            GateError: the certificate in the folder does not pass the model.
        """
        verdict = _read_json(folder / "certificate.json").get("verdict")
        if verdict != "pass":
            raise GateError(f"the certificate's verdict is {verdict}, not pass; package another model")
        registration = _read_json(folder / "registration.json")
        receipt = registration["receipt"]
        try:
            verify(_read_json(folder / "receipt.json"), receipt)
        except ValueError as error:
            raise ArtifactError(f"{error}; package the model again") from None
        classifier = Classifier.load(folder / "model.onnx")
        class_names = tuple(_read_json(folder / "architecture.json")["class_names"])
        if len(class_names) != classifier.num_classes:
            raise ArtifactError(
                f"the model has {classifier.num_classes} logits and {len(class_names)} class names; package it again"
            )
        classifier.logits(np.zeros((1, *classifier.image_shape), np.uint8))
        return cls(
            transform=Transform.from_file(folder / "transform.json"),
            classifier=classifier,
            class_names=class_names,
            model=ModelVersion(name=registration["name"], version=str(registration["version"])),
            receipt=receipt,
        )

    def num_pixels(self, data: bytes) -> int:
        """Pixels of an image by its header, for 16 µs; 0 where `predict` would refuse it."""
        try:
            with Image.open(BytesIO(data), formats=FORMATS) as image:
                return image.width * image.height
        except Exception:  # damaged files make Pillow raise about any type; `predict` gives the reason
            return 0

    def predict(self, data: bytes, request_id: str, top_k: int) -> Prediction:
        """Answer one image file with its `top_k` most probable classes.

        Raises:
            ImageError: no image, a damaged one, or one of more pixels than the transform admits, which is not decoded.
        """
        images = self.transform.decode(data)[np.newaxis]  # (1, H, W, C) uint8
        logits = self.classifier.logits(images)  # (1, num_classes) float32
        probabilities = softmax(logits)[0]  # (num_classes,)
        ranked = np.argsort(-probabilities, kind="stable")[:top_k].tolist()
        return Prediction(
            class_name=self.class_names[ranked[0]],
            confidence=float(probabilities[ranked[0]]),
            probabilities={self.class_names[index]: float(probabilities[index]) for index in ranked},
            model=self.model,
            receipt=self.receipt,
            request_id=request_id,
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; package the model again") from None
    return content
