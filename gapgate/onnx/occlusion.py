"""Occlusion: hide one patch of an image after the other and measure how far the probability of a class falls.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2014, arXiv:1311.2901, section 4.2. The
method needs no gradients, so ONNX Runtime alone can run it, and it works for every network. NumPy and Pillow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gapgate.data.tiles import picture, png, whole_factor
from gapgate.onnx.classifier import Classifier, softmax
from gapgate.onnx.inner_layers import stretched

BATCH_SIZE = 32
"""Number of images in a call of the model. It bounds the work that is still done for a client that has gone away."""
PATCH_SHARE = 0.2
"""Side of a patch as a share of the image's side: as large as a part of a thing, such as a sleeve or a wheel."""
MIN_HEAT_PX = 224
"""Least side of the picture of the heat, in pixels."""
MIN_SCALE = 0.01
"""Least drop in probability that gets the full colour. Without this bound, an answer that no patch changes would be
drawn in strong colours."""

_POSITIONS = ((64, 14), (128, 10))
"""Largest side in pixels → number of patches along it. Larger images get fewer, since each takes far longer."""
_FEWEST_POSITIONS = 7
"""Number of patches along a side that is larger than all of `_POSITIONS`."""

_BLUE, _RED = (40, 122, 245), (222, 60, 55)
"""Colours of equal lightness (0.6) and equal chroma (0.2) in Oklab (https://bottosson.github.io/posts/oklab/), so that
a rise and a drop of the same size look equally strong."""
_MAX_OPACITY = 0.85
_GRAY_RANGE = (40, 225)
"""Gray values for the image's black and white under the heat: a colour is visible on both."""


@dataclass(frozen=True, slots=True)
class Heat:
    """Evidence of each place for a class (above 0) or against it (below 0)."""

    drops: NDArray[np.float32]
    """Drop of each patch, p(class) − p(class with the patch hidden), (rows, columns). Patch (r, c) has its upper left
    corner at (r, c) · `stride_px`; the last patch of a row or column ends with the image."""
    patch_px: int
    stride_px: int
    map: NDArray[np.float32]
    """Mean drop of the patches that cover each pixel, (H, W)."""


def occlusion(
    classifier: Classifier,
    image: NDArray[np.uint8],
    class_index: int,
    *,
    fill: int,
    cancelled: Callable[[], bool],
) -> Heat | None:
    """Hide each place of an image in turn and measure the change in the probability of a class.

    Args:
        classifier: the model.
        image: (H, W, C) uint8, as the model takes it.
        class_index: index of the class to explain.
        fill: value 0..255 of the patch. With the transform's own fill, a patch looks like empty background to the
            model, so only the thing itself gets heat.
        cancelled: asked before each batch of `BATCH_SIZE` images.

    Returns:
        The heat, or None if `cancelled()` was true.

    Raises:
        DataError: the image has another shape than the model takes.
    """
    height, width, _ = image.shape
    patch_px, stride_px = patch_grid(min(height, width))
    tops, lefts = _starts(height, patch_px, stride_px), _starts(width, patch_px, stride_px)
    corners = [(top, left) for top in tops for left in lefts]
    hidden = np.empty(len(corners), np.float32)  # p(class) with each patch hidden
    for start in range(0, len(corners), BATCH_SIZE):
        if cancelled():
            return None
        batch = corners[start : start + BATCH_SIZE]
        images = np.repeat(image[np.newaxis], len(batch), axis=0)  # (b, H, W, C)
        for occluded, (top, left) in zip(images, batch, strict=True):
            occluded[top : top + patch_px, left : left + patch_px] = fill
        hidden[start : start + len(batch)] = softmax(classifier.logits(images))[:, class_index]
    drops = softmax(classifier.logits(image[np.newaxis]))[0, class_index] - hidden
    heat = _mean_over_pixels(drops, corners, patch_px, (height, width))
    return Heat(drops.reshape(len(tops), len(lefts)), patch_px, stride_px, heat)


def patch_grid(side_px: int) -> tuple[int, int]:
    """Choose the side of a patch and the stride, in pixels, such that the last patch ends with the side `side_px`."""
    positions = next((count for limit, count in _POSITIONS if side_px <= limit), _FEWEST_POSITIONS)
    patch = max(1.0, side_px * PATCH_SHARE)
    stride = max(1, round((side_px - patch) / (positions - 1)))
    # The stride is rounded first, then the patch takes up the rest: side = steps · stride + patch.
    steps = max(1, round((side_px - patch) / stride))
    return max(1, side_px - steps * stride), stride


def heat_png(image: NDArray[np.uint8], heat: Heat) -> bytes:
    """Draw `heat_pixels` as a PNG file; equal inputs give equal bytes."""
    return png(heat_pixels(image, heat))


def heat_pixels(image: NDArray[np.uint8], heat: Heat) -> NDArray[np.uint8]:
    """Draw the heat over an image (H, W, 1 or 3) uint8 in gray: (h, w, 3) uint8, with sides of at least `MIN_HEAT_PX`.

    Red is evidence for the class, blue against it. The opacity is the drop divided by the largest drop (or by
    `MIN_SCALE` if that is larger), so the image shows through where nothing changes.
    """
    height, width = heat.map.shape
    factor = whole_factor(min(height, width), MIN_HEAT_PX)
    size = (width * factor, height * factor)
    black, white = _GRAY_RANGE
    gray = np.asarray(picture(image).convert("L").resize(size, Image.Resampling.NEAREST), np.float32)[:, :, np.newaxis]
    gray = gray * np.float32((white - black) / 255) + np.float32(black)
    shares = np.asarray(_smoothed(heat).resize(size, Image.Resampling.BILINEAR))[:, :, np.newaxis]  # -1..1
    colours = np.where(shares > 0, np.array(_RED, np.float32), np.array(_BLUE, np.float32))
    opacity = np.abs(shares) * np.float32(_MAX_OPACITY)
    pixels: NDArray[np.uint8] = np.rint(gray + (colours - gray) * opacity).astype(np.uint8)
    return pixels


def feature_maps_png(maps: NDArray[np.float32]) -> tuple[bytes, int]:
    """Draw feature maps (C, H, W) as one gray PNG file; return it with its number of columns.

    Map c is the tile in row c // columns and column c % columns, H × W pixels without a gap, stretched from its own
    least value to its own greatest; unused tiles are black.
    """
    count, height, width = maps.shape
    # columns · width ≈ rows · height: the sheet is about square, whatever the shape of a map.
    columns = min(count, math.ceil(math.sqrt(count * height / width)))
    rows = math.ceil(count / columns)
    tiles = np.zeros((rows * columns, height, width), np.uint8)
    tiles[:count] = np.rint(stretched(maps) * 255)
    sheet = tiles.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)
    return png(sheet[:, :, np.newaxis]), columns


def _starts(side_px: int, patch_px: int, stride_px: int) -> list[int]:
    # A set, because the last patch, moved back to end with the image, may coincide with the one before it.
    last = side_px - patch_px
    return sorted({*range(0, last, stride_px), last})


def _mean_over_pixels(
    drops: NDArray[np.float32], corners: list[tuple[int, int]], patch_px: int, shape: tuple[int, int]
) -> NDArray[np.float32]:
    total, count = np.zeros(shape), np.zeros(shape)
    for drop, (top, left) in zip(drops, corners, strict=True):
        covered = np.s_[top : top + patch_px, left : left + patch_px]
        total[covered] += drop
        count[covered] += 1
    # No count is 0: for all sides from 8 to 512 px the stride is no longer than the patch.
    mean: NDArray[np.float32] = (total / count).astype(np.float32)
    return mean


def _smoothed(heat: Heat) -> Image.Image:
    """Scale the map to −1..1 and average it to cells of half a stride; enlarged, it shows no edges of the patches."""
    height, width = heat.map.shape
    cells = [min(side, max(1, round(2 * side / heat.stride_px))) for side in (width, height)]
    scale = max(float(np.abs(heat.map).max()), MIN_SCALE)
    return Image.fromarray(heat.map / np.float32(scale)).resize((cells[0], cells[1]), Image.Resampling.BOX)
