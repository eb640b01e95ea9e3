"""Which container image a step runs in."""

from __future__ import annotations

import os

from gapgate import __version__
from gapgate.artifacts import code_revision

TRAINED = ("augment", "train")
"""Steps of the image with torch; the others run in the one without."""


def built(kind: str) -> str:
    """The image `step` or `train` that `make images` builds of this code, unless GAPGATE_STEP_IMAGE or
    GAPGATE_TRAIN_IMAGE names another."""
    return os.environ.get(f"GAPGATE_{kind.upper()}_IMAGE") or f"gapgate/{kind}:{__version__}-{code_revision()[:12]}"


def kind_of(step: str) -> str:
    """`train` or `step`."""
    return "train" if step in TRAINED else "step"
