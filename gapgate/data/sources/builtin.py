"""The data sets that need no download, written as `images.npy`, `labels.npy` and `classes.txt`.

Both have the same bytes on every machine: `data.dvc` pins them by hash.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gapgate.errors import DataError

BUILTINS = ("digits", "shapes")
SHAPE_CLASSES = ("circle", "square", "triangle")

_F8 = NDArray[np.float64]


def write_builtin(name: str, folder: Path) -> None:
    """Write a built-in data set into an existing folder.

    digits: the 1,797 handwritten 8 × 8 digits that scikit-learn carries (UCI Optical Recognition, 1998).
    shapes: circles, squares and triangles, drawn in colour.

    Raises:
        DataError: there is no data set of that name.
    """
    if name == "digits":
        images, labels = _digits()
        classes = tuple("0123456789")
    elif name == "shapes":
        images, labels = shapes(images_per_class=200, size_px=128, seed=0)
        classes = SHAPE_CLASSES
    else:
        raise DataError(f"{name!r} is no built-in data set; take one of {', '.join(BUILTINS)}")
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes))


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Read the digits: images (1797, 8, 8) uint8 and labels (1797,) int32; values 0..16 are scaled to 0..255."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("digits comes with scikit-learn, which is not installed; run pip install scikit-learn")
    # The file that sklearn.datasets.load_digits reads; importing that module takes five seconds.
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)  # (1797, 64 + 1)
    # + 8 rounds v · 255 / 16 half up, in whole numbers.
    images = ((table[:, :64] * 255 + 8) // 16).astype(np.uint8)
    return images.reshape(-1, 8, 8), table[:, 64].astype("<i4")


def shapes(images_per_class: int, size_px: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Draw circles, squares and triangles of random colour, place, size and angle on a background with a gradient.

    Returns:
        Images (3 n, size_px, size_px, 3) uint8 and labels (3 n,) int32, the classes in turn.
    """
    # Only operations that IEEE 754 rounds exactly (+ − × ÷ √), on the raw stream of PCG64: sines differ in the last bit
    # between processors, and NumPy may change how its distributions use the stream (NEP 19).
    draws = _uniform(np.random.PCG64(seed))
    labels = np.tile(np.arange(len(SHAPE_CLASSES), dtype="<i4"), images_per_class)
    images = np.empty((len(labels), size_px, size_px, 3), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:] = _draw(SHAPE_CLASSES[label], size_px, draws)
    return images, labels


def _uniform(bits: np.random.PCG64) -> Iterator[float]:
    """Yield numbers in [0, 1), made of the upper 53 bits of each draw."""
    while True:
        yield (int(bits.random_raw()) >> 11) * 2.0**-53


def _draw(name: str, size_px: int, draws: Iterator[float]) -> NDArray[np.uint8]:
    """Draw one image, (size_px, size_px, 3) uint8."""
    # Each draw takes the next numbers of the stream, so the order of these lines is part of the data set's hash.
    radius = size_px * (0.15 + 0.2 * next(draws))
    x0, y0 = (radius + (size_px - 2 * radius) * next(draws) for _ in range(2))
    cos, sin = _direction(draws)
    x = np.arange(size_px)[np.newaxis, :] + 0.5 - x0
    y = np.arange(size_px)[:, np.newaxis] + 0.5 - y0
    distance = _distance(name, cos * x + sin * y, cos * y - sin * x, radius)
    inside = np.clip(0.5 - distance, 0.0, 1.0)[:, :, np.newaxis]  # share of each pixel that the shape covers
    background, colour = _colours(draws)
    slope = np.array([next(draws) - 0.5 for _ in range(3)])
    ramp = background + slope * 0.3 * ((cos * x + sin * y) / size_px)[:, :, np.newaxis]
    pixels = ramp * (1.0 - inside) + colour * inside
    return (np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _distance(name: str, x: _F8, y: _F8, radius: float) -> _F8:
    """Compute the signed distance from the edge in pixels, negative inside, for pixel coordinates x and y (S, S).

    `radius` is that of the circle around the shape.
    """
    if name == "circle":
        length: _F8 = np.sqrt(x * x + y * y)
        return length - radius
    if name == "square":
        reach: _F8 = np.maximum(np.abs(x), np.abs(y))
        return reach - radius * math.sqrt(0.5)
    # An equilateral triangle is the intersection of three half planes at radius / 2 from its centre.
    half_root = math.sqrt(3.0) / 2.0
    sides: _F8 = np.maximum(np.maximum(half_root * x + 0.5 * y, 0.5 * y - half_root * x), -y)
    return sides - radius / 2.0


def _direction(draws: Iterator[float]) -> tuple[float, float]:
    """Draw (cosine, sine) of a uniform angle: a point of the disc by rejection (von Neumann 1951), at length 1."""
    while True:
        x, y = 2.0 * next(draws) - 1.0, 2.0 * next(draws) - 1.0
        # The centre has no direction, and a division by nearly nothing would magnify the last bit.
        if 0.01 < (square := x * x + y * y) <= 1.0:
            length = math.sqrt(square)
            return x / length, y / length


def _colours(draws: Iterator[float]) -> tuple[_F8, _F8]:
    """Draw the colours of background and shape, (3,) each in 0..1, different enough to be seen."""
    while True:
        background, colour = (np.array([next(draws) for _ in range(3)]) for _ in range(2))
        if np.abs(background - colour).max() > 0.4:
            return background, colour
