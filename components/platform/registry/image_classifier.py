"""The logged model as MLflow runs it: images → class and probabilities, by ONNX Runtime.

MLflow copies this file beside the model and executes it when the model is loaded. Where Gapgate is not installed, its
modules for images come from the archive that lies beside the model.
"""

from __future__ import annotations

import base64
import binascii
import sys
from pathlib import Path
from typing import Any

from mlflow.models import Model, set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

_SERVER = "mlflow.pyfunc.scoring_server.app"
"""Module that only a server of `mlflow models serve` imports; a path in a request would name a file of the server."""


class ImageClassifier(PythonModel):  # type: ignore[misc]
    """A classifier of one image, or of many."""

    # Else MLflow warns at each load that it cannot check what `predict` takes.
    _skip_type_hint_validation = True

    def load_context(self, context: PythonModelContext) -> None:
        """Open the model."""
        try:
            import gapgate  # noqa: F401
        except ImportError:
            # At the end: what is installed there comes before what lies in the archive.
            sys.path.append(context.artifacts["code"])
        from gapgate.data.transform import Transform
        from gapgate.onnx.classifier import Classifier

        model = Path(context.artifacts["model"])
        described = Model.load(str(model.parent)).metadata
        self._class_names: list[str] = described["class_names"]
        self._transform = Transform.model_validate(described["transform"])
        self._classifier = Classifier.load(model)

    def predict(self, context: PythonModelContext, model_input: Any) -> list[dict[str, Any]]:
        """Classify images.

        Args:
            model_input: one image or a list of them, each the bytes of a file, the same in base64, a path, or an array
                (H, W) or (H, W, C) of uint8; an array (N, H, W, C); or a data frame or series whose first column has
                images.

        Returns:
            For each image its `class`, with its `confidence`, and the `probabilities` by class name.

        Raises:
            ImageError: a file cannot be decoded.
            DataError: something else than an image is given, or a path that leads to no file.
        """
        import numpy as np

        from gapgate.onnx.classifier import softmax

        images = [self._pixels(image) for image in _listed(model_input)]
        stacked = np.stack(images) if images else np.empty((0, *self._classifier.image_shape), np.uint8)
        return [
            {
                "class": self._class_names[int(row.argmax())],
                "confidence": float(row.max()),
                "probabilities": dict(zip(self._class_names, row.tolist(), strict=True)),
            }
            for row in softmax(self._classifier.logits(stacked))
        ]

    def _pixels(self, image: Any) -> Any:
        """The network's input (S, S, C) uint8 of one image."""
        if isinstance(image, bytes | bytearray | memoryview):
            return self._transform.decode(bytes(image))
        if isinstance(image, str | Path):
            return self._transform.decode(_file(image))
        return self._transform.apply_to_array(image)


def _listed(given: Any) -> list[Any]:
    """The images of an input of `predict`, one after the other."""
    if isinstance(given, bytes | bytearray | memoryview | str | Path):
        return [given]
    if hasattr(given, "iloc"):  # of pandas, which a model without data frames does not need
        return list(given.iloc[:, 0] if given.ndim == 2 else given)
    if hasattr(given, "ndim") and given.ndim in (2, 3):
        return [given]
    return list(given)


def _file(text: str | Path) -> bytes | Path:
    """The file at a path, or the bytes that a text in base64 stands for."""
    from gapgate.errors import DataError

    is_served = _SERVER in sys.modules
    if not is_served and _is_file(text):
        return Path(text)
    try:
        if isinstance(text, str) and text:
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    wanted = "an image in base64" if is_served else "the path of an image, or an image in base64"
    raise DataError(f"{str(text)[:80]!r} is not {wanted}")


def _is_file(text: str | Path) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a text in base64 is too long for a name
        return False


# MLflow executes the file, and takes the model that is given here.
set_model(ImageClassifier())
