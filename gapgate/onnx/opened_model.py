"""A model opened once for all that asks it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from gapgate.onnx.classifier import Classifier
from gapgate.process.cpu_quota import available_cpus


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """Files of a Model artifact, with `model.onnx` opened once as a classifier and once as a graph."""

    folder: Path
    classifier: Classifier
    graph: onnx.ModelProto

    @classmethod
    def load(cls, folder: Path) -> OpenedModel:
        """Open the model in `folder`.

        Raises:
            ArtifactError: as `Classifier.load`.
        """
        path = folder / "model.onnx"
        return cls(folder, Classifier.load(path, available_cpus()), onnx.load(path))
