"""Container images of the steps."""

from __future__ import annotations

import os
import re

from gapgate import __version__
from gapgate.artifacts import code_revision

TRAINED = ("augment", "train")
"""Steps that run in the image with torch; the others run in the image without it."""


def built(kind: str) -> str:
    """Name of the image of `kind` (`step` or `train`) that `make images` builds of this code; GAPGATE_STEP_IMAGE and
    GAPGATE_TRAIN_IMAGE name others."""
    return os.environ.get(f"GAPGATE_{kind.upper()}_IMAGE") or f"gapgate/{kind}:{_tag()}"


def _tag() -> str:
    """The tag that `make tag` prints; the version alone for an installed copy, which has no revision."""
    # The revision is in the tag, since KFP's cache knows code by the name of its image alone.
    revision = re.fullmatch(r"([0-9a-f]{12})[0-9a-f]*(\+dirty)?", code_revision())
    return f"{__version__}-{revision[1]}{'-dirty' if revision[2] else ''}" if revision else __version__


def kind_of(step: str) -> str:
    """The kind of image that a step runs in: `train` (with torch) or `step`."""
    return "train" if step in TRAINED else "step"
