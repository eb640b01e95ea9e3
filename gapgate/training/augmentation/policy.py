"""An augmentation policy as data: the named operations of `augment.operations`.

Each operation draws its parameters for every image on its own. Where a flip changes what the image means (digits,
letters, left and right shoes), leave `flip` out: no operation is on unless the settings name it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gapgate.settings.base import Fraction, Section


class _Operation(Section):
    probability: Fraction = 1.0
    """Probability that an image is changed."""


class Flip(_Operation):
    """Mirror the image."""

    type: Literal["flip"] = "flip"
    axis: Literal["horizontal", "vertical"] = "horizontal"
    """Direction of the mirror: horizontal swaps left and right, vertical swaps top and bottom."""
    probability: Fraction = 0.5
    """Probability that an image is mirrored."""


class Translate(_Operation):
    """Shift in both directions by a uniform draw; pixels that come in from outside are black."""

    type: Literal["translate"] = "translate"
    max_fraction: Fraction = 0.1
    """Largest shift, as a fraction of the side."""


class Rotate(_Operation):
    """Rotate about the centre, bilinear."""

    type: Literal["rotate"] = "rotate"
    max_degrees: Annotated[float, Field(ge=0, le=180)] = 10.0
    """Largest angle to either side, in degrees."""


class Shear(_Operation):
    """Shear along a random axis, bilinear."""

    type: Literal["shear"] = "shear"
    max_degrees: Annotated[float, Field(ge=0, le=45)] = 10.0
    """Largest shear angle to either side, in degrees."""


class Scale(_Operation):
    """Zoom about the centre, bilinear."""

    type: Literal["scale"] = "scale"
    max_change: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Factors are drawn from 1 − max_change to 1 + max_change."""


class Brightness(_Operation):
    """Add a constant to all pixels."""

    type: Literal["brightness"] = "brightness"
    max_change: Fraction = 0.2
    """Largest change, as a fraction of the full range."""


class Contrast(_Operation):
    """Scale the distance of each pixel from the image's mean."""

    type: Literal["contrast"] = "contrast"
    max_change: Fraction = 0.2
    """Factors are drawn from 1 − max_change to 1 + max_change."""


class Erase(_Operation):
    """Blank a random rectangle (Zhong et al. 2017, Random Erasing)."""

    type: Literal["erase"] = "erase"
    max_area: Fraction = 0.2
    """Largest erased area, as a fraction of the image."""
    probability: Fraction = 0.5
    """Probability that an image is changed."""


class Mixup(_Operation):
    """Blend pairs of images and their labels (Zhang et al. 2017)."""

    type: Literal["mixup"] = "mixup"
    alpha: Annotated[float, Field(gt=0)] = 0.2
    """Both parameters of the Beta distribution of the blend."""


class Cutmix(_Operation):
    """Paste a rectangle of another image and mix the labels by area (Yun et al. 2019)."""

    type: Literal["cutmix"] = "cutmix"
    alpha: Annotated[float, Field(gt=0)] = 1.0
    """Both parameters of the Beta distribution of the kept area."""


Operation = Annotated[
    Flip | Translate | Rotate | Shear | Scale | Brightness | Contrast | Erase | Mixup | Cutmix,
    Field(discriminator="type"),
]
