"""Which pixels carried a prediction: hide a patch of the image, see how far the class's probability falls, and repeat.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2014, arXiv:1311.2901, section 4.2. It needs
no gradients, so ONNX Runtime alone can do it, and it tells what the network does, whatever is inside. NumPy and Pillow.
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
"""Images in a call of the model, and the work that is still done for a client that has gone away."""
PATCH_SHARE = 0.2
"""Of the image's side: a patch as large as a part of a thing, such as a sleeve or a wheel."""
MIN_HEAT_PX = 224
"""Side of the picture of the heat, at least."""
MIN_SCALE = 0.01
"""A drop in probability that gets the full colour, at least; where no patch moves the answer, no colour is shown."""

_POSITIONS = ((64, 14), (128, 10))
_FEWEST_POSITIONS = 7
"""Patches along a side of an image up to so many pixels, and along larger ones, which take far longer each."""

_BLUE, _RED = (40, 122, 245), (222, 60, 55)
"""Of one lightness (0.6) and one chroma (0.2) in Oklab (https://bottosson.github.io/posts/oklab/), so that a rise and a
drop of one size look equally strong."""
_MAX_OPACITY = 0.85
_GRAY_RANGE = (40, 225)
"""The image's black and white under the heat, so that a colour is seen on both."""


@dataclass(frozen=True, slots=True)
class Heat:
    """How much each place speaks for a class (above 0) or against it (below 0)."""

    drops: NDArray[np.float32]
    """(rows, columns) p(class) − p(class with the patch hidden); patch (r, c) has its upper left corner at
    (r, c) · `stride_px`, the last ones of a side end with the image."""
    patch_px: int
    stride_px: int
    map: NDArray[np.float32]
    """(H, W): the mean drop of the patches over each pixel."""


def occlusion(
    classifier: Classifier,
    image: NDArray[np.uint8],
    class_index: int,
    *,
    fill: int,
    cancelled: Callable[[], bool],
) -> Heat | None:
    """Hide each place of `image` (H, W, C) in turn and note what becomes of the probability of a class.

    Args:
        classifier: the model.
        image: (H, W, C) uint8, as the model takes it.
        class_index: of the class to explain.
        fill: value 0..255 of the patch. The transform's own fill looks to the model like nothing there: on a plain
            background of that value only the thing itself gets heat.
        cancelled: asked before each batch of `BATCH_SIZE` images.

    Returns:
        None as soon as `cancelled()` is true.

    Raises:
        DataError: an image of another shape than the model's.
    """
    height, width, _ = image.shape
    patch_px, stride_px = patch_grid(min(height, width))
    tops, lefts = _starts(height, patch_px, stride_px), _starts(width, patch_px, stride_px)
    corners = [(top, left) for top in tops for left in lefts]
    hidden = np.empty(len(corners), np.float32)
    for start in range(0, len(corners), BATCH_SIZE):
        if cancelled():
            return None
        batch = corners[start : start + BATCH_SIZE]
        images = np.repeat(image[np.newaxis], len(batch), axis=0)
        for occluded, (top, left) in zip(images, batch, strict=True):
            occluded[top : top + patch_px, left : left + patch_px] = fill
        hidden[start : start + len(batch)] = softmax(classifier.logits(images))[:, class_index]
    drops = softmax(classifier.logits(image[np.newaxis]))[0, class_index] - hidden
    heat = _mean_over_pixels(drops, corners, patch_px, (height, width))
    return Heat(drops.reshape(len(tops), len(lefts)), patch_px, stride_px, heat)


def patch_grid(side_px: int) -> tuple[int, int]:
    """Side of a patch and stride in pixels. With them a patch ends where a side of `side_px` does."""
    positions = next((count for limit, count in _POSITIONS if side_px <= limit), _FEWEST_POSITIONS)
    patch = max(1.0, side_px * PATCH_SHARE)
    stride = max(1, round((side_px - patch) / (positions - 1)))
    steps = max(1, round((side_px - patch) / stride))
    return max(1, side_px - steps * stride), stride


def heat_png(image: NDArray[np.uint8], heat: Heat) -> bytes:
    """`heat_pixels` as a PNG file; equal inputs give equal bytes."""
    return png(heat_pixels(image, heat))


def heat_pixels(image: NDArray[np.uint8], heat: Heat) -> NDArray[np.uint8]:
    """`image` (H, W, 1 or 3) uint8 in gray with the heat over it: (h, w, 3) uint8, the sides `MIN_HEAT_PX` or more.

    Red speaks for the class and blue against it. The opacity is the drop's share of the largest one (of `MIN_SCALE` at
    least), and where nothing changes the image shows through.
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
    """Feature maps (C, H, W) as one gray PNG file and its number of columns.

    Map c is the tile in row c // columns and column c % columns, H × W pixels without a gap, scaled from its own least
    value to its own greatest as 0..255; unused tiles are black.
    """
    count, height, width = maps.shape
    columns = min(count, math.ceil(math.sqrt(count * height / width)))
    rows = math.ceil(count / columns)
    tiles = np.zeros((rows * columns, height, width), np.uint8)
    tiles[:count] = np.rint(stretched(maps) * 255)
    sheet = tiles.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)
    return png(sheet[:, :, np.newaxis]), columns


def _starts(side_px: int, patch_px: int, stride_px: int) -> list[int]:
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
    mean: NDArray[np.float32] = (total / count).astype(np.float32)
    return mean


def _smoothed(heat: Heat) -> Image.Image:
    """The map on the scale -1..1, as coarse as the patches' steps are: enlarged, their edges are not to be seen."""
    height, width = heat.map.shape
    cells = [min(side, max(1, round(2 * side / heat.stride_px))) for side in (width, height)]
    scale = max(float(np.abs(heat.map).max()), MIN_SCALE)
    return Image.fromarray(heat.map / np.float32(scale)).resize((cells[0], cells[1]), Image.Resampling.BOX)
