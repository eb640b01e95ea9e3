"""Meaning of `auto` for a data set: size, mode, fit and filter of its transform, by some of its images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
from PIL import Image

from gapgate.data.picture.modes import MAX_WHITE
from gapgate.data.sources import Pixels, Reader
from gapgate.data.sources.base import EncodedReader
from gapgate.data.transform import Transform
from gapgate.errors import ImageError
from gapgate.settings.sections import PreprocessSettings

PROBED_IMAGES = 256
"""Number of images that are read to decide what `auto` means."""
DARK = 64
"""Value below which a pixel is dark."""
MARGIN_PX = 32
"""Border that EfficientNet's training images lost: of an image resized to size + 32 px the central size px are kept."""


def resolve(
    settings: PreprocessSettings, reader: Reader, locators: Iterable[str], num_images: int
) -> tuple[Transform, str]:
    """Build the transform, and name the kind of network that it is for; those of the images that can be read decide
    what `auto` means."""
    seen = _probe(reader, islice(locators, PROBED_IMAGES), settings)
    network = seen.network if settings.network == "auto" else settings.network
    is_pretrained = network == "pretrained"
    size_px = settings.size_px
    if size_px == "auto":
        size_px = seen.pretrained_px(num_images) if is_pretrained else seen.scratch_px
    fit = ("crop" if is_pretrained else "pad") if settings.fit == "auto" else settings.fit
    resample = ("bicubic" if is_pretrained else "bilinear") if settings.resample == "auto" else settings.resample
    transform = Transform(
        size_px=size_px,
        mode=("gray" if seen.is_gray else "rgb") if settings.mode == "auto" else settings.mode,
        fit=fit,
        margin_px=MARGIN_PX if is_pretrained and fit == "crop" else 0,
        fill=seen.fill if settings.fill == "auto" else settings.fill,
        resample=resample,
        max_pixels=settings.max_pixels,
        white=reader.white if isinstance(reader, EncodedReader) else MAX_WHITE,
    )
    return transform, network


@dataclass(frozen=True, slots=True)
class _Probe:
    """Properties that the probed images have in common."""

    shared_px: int | None
    """Side in pixels, if all are squares of one size from 8 to 224 px."""
    short_px: float
    """Median of the shorter sides; 0 without an image that can be read."""
    long_px: float
    """Median of the longer sides."""
    is_gray: bool
    fill: int
    """Background on which drawings with transparent pixels stay visible: 255 for dark ones, else 0."""

    @property
    def network(self) -> Literal["scratch", "pretrained"]:
        """Kind of network that suits the images."""
        return "scratch" if self.short_px <= (64 if self.is_gray else 40) else "pretrained"

    @property
    def scratch_px(self) -> int:
        """Side for a network that is trained from scratch: their own where they share one, and never enlarged."""
        return self.shared_px or min(64, max(8, round(self.long_px) or 64))

    def pretrained_px(self, num_images: int) -> int:
        """Side for a pretrained network: no larger than the images have detail for, and smaller for many."""
        return 128 if num_images > 2_000 or self.short_px < 160 else 224


def _probe(reader: Reader, locators: Iterator[str], settings: PreprocessSettings) -> _Probe:
    """Read the probed images."""
    sizes: list[tuple[int, int]] = []
    gray = True
    drawn: list[float | None] = []
    for locator in locators:
        try:
            image = reader.read(locator, settings.max_pixels)
        except ImageError:
            continue
        sizes.append(image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0]))
        gray = gray and _is_gray(image)
        drawn.append(_darkness(image))
        if not gray and len(set(sizes)) > 1 and len(sizes) >= 32:
            break  # photos: a median of 32 says enough, and 256 large ones would take seconds
    width, height = sizes[0] if len(set(sizes)) == 1 else (0, 0)
    shared_px = width if width == height and 8 <= width <= 224 else None
    short_px, long_px = (float(np.median([side(size) for size in sizes] or [0])) for side in (min, max))
    return _Probe(shared_px, short_px, long_px, gray and bool(sizes), 255 if _are_dark(drawn) else 0)


def _darkness(image: Pixels) -> float | None:
    """Share of the opaque pixels that are darker than `DARK`; None for an image without transparent or opaque ones."""
    pixels = np.asarray(image)
    # 2 channels are gray and alpha, 4 are RGB and alpha.
    if pixels.ndim != 3 or pixels.shape[2] not in (2, 4):
        return None
    is_opaque = pixels[..., -1] >= 128
    if is_opaque.all() or not is_opaque.any():
        return None
    # By the brightest channel: a dark pixel is dark in all of them.
    return float((pixels[..., :-1].max(axis=2)[is_opaque] < DARK).mean())


def _are_dark(drawn: list[float | None]) -> bool:
    """True if it is certain that the images are dark drawings: most have transparent pixels, and nearly all of those
    have nearly no others; one that is mostly light would vanish on white."""
    shares = [share for share in drawn if share is not None]
    is_usual = 2 * len(shares) > len(drawn)
    # An empty list, which `quantile` refuses, is not usual.
    return is_usual and bool(np.quantile(shares, 0.1) >= 0.95) and min(shares) > 0.5


def _is_gray(image: Pixels) -> bool:
    """True if the image has one channel, or three equal ones; an alpha channel does not count."""
    pixels = np.asarray(image)
    if pixels.ndim == 2 or pixels.shape[2] < 3:
        return True
    return bool((pixels[..., :2] == pixels[..., 1:3]).all())
