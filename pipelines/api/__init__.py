"""The Python API: what `import gapgate` gives, as `gapgate.run` and `gapgate.load`."""

from pipelines.api.models import ImageLike, Model, Prediction, load
from pipelines.api.runs import Check, Figure, Result, run

__all__ = ["Check", "Figure", "ImageLike", "Model", "Prediction", "Result", "load", "run"]
