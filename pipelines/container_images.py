"""Container images of the steps."""

from __future__ import annotations

import os

from gapgate import __version__
from gapgate.artifacts import code_revision

TRAINED = ("augment", "train")
"""Steps that run in the image with torch; the others run in the image without it."""


def built(kind: str) -> str:
    """Name of the image of `kind` (`step` or `train`) that `make images` builds of this code; GAPGATE_STEP_IMAGE and
    GAPGATE_TRAIN_IMAGE name others."""
    # The revision is in the tag, since KFP's cache knows code by the name of its image alone.
    return os.environ.get(f"GAPGATE_{kind.upper()}_IMAGE") or f"gapgate/{kind}:{__version__}-{code_revision()[:12]}"


def kind_of(step: str) -> str:
    """The kind of image that a step runs in: `train` (with torch) or `step`."""
    return "train" if step in TRAINED else "step"
