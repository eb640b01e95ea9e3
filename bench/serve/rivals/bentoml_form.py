"""BentoML as its documentation declares an image and a tensor: by the types of the arguments."""

from __future__ import annotations

from typing import Any

import bentoml
import numpy as np
from PIL.Image import Image

from bench.serve.rivals.model import Model


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Stock:
    """The model behind BentoML's own input types."""

    def __init__(self) -> None:
        self.model = Model.from_environment()

    @bentoml.api
    def classify(self, image: Image) -> dict[str, Any]:
        image.load()
        return self.model.answer(self.model.transform.apply_to_image(image))

    @bentoml.api
    def classify_tensor(self, image: np.ndarray) -> dict[str, Any]:
        return self.model.answer(image.astype(np.uint8))
