"""The arithmetic of a convolutional layer on one channel, in NumPy, and the classical kernels to try it with.

Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, arXiv:1603.07285. As in every deep
learning library, "convolution" means cross-correlation: the kernel is not mirrored.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Kernel = tuple[tuple[Fraction | int, ...], ...]


def _shares(*rows: tuple[int, ...]) -> Kernel:
    """Divide whole numbers by their sum, exactly."""
    total = sum(map(sum, rows))
    return tuple(tuple(Fraction(value, total) for value in row) for row in rows)


KERNELS: dict[str, Kernel] = {
    "identity": ((0, 0, 0), (0, 1, 0), (0, 0, 0)),
    "edge": ((0, -1, 0), (-1, 4, -1), (0, -1, 0)),
    "outline": ((-1, -1, -1), (-1, 8, -1), (-1, -1, -1)),
    "sharpen": ((0, -1, 0), (-1, 5, -1), (0, -1, 0)),
    "blur": _shares((1, 1, 1), (1, 1, 1), (1, 1, 1)),
    "gaussian": _shares((1, 2, 1), (2, 4, 2), (1, 2, 1)),
    "emboss": ((-2, -1, 0), (-1, 1, 1), (0, 1, 2)),
    "sobel-x": ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1)),
    "sobel-y": ((-1, -2, -1), (0, 0, 0), (1, 2, 1)),
}
"""The 3×3 kernels of image processing (Gonzalez and Woods, "Digital Image Processing", 4th edition, chapter 3).

Edge and outline are the Laplacian of 4 and of 8 neighbours, sharpen adds its edges to the image, blur is the mean of 9
pixels; sobel-x and sobel-y are positive where brightness rises to the right and downwards.
"""


def convolve(image: NDArray[np.floating], kernel: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute the sum of products at each place where the kernel (f_h, f_w) lies completely on the image (H, W).

    Returns:
        The sums, (H − f_h + 1, W − f_w + 1) float64.
    """
    sums: NDArray[np.float64] = np.einsum("yxij,ij->yx", _windows(image, kernel.shape), kernel, dtype=np.float64)
    return sums


def max_pool(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """Compute the largest value of each 2 × 2 window of an image (H, W): (H // 2, W // 2).

    A last row or column that fills no window is left out.
    """
    largest: NDArray[np.floating] = _windows(image, (2, 2))[::2, ::2].max(axis=(2, 3))
    return largest


def relu(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Set negative values to 0; the shape stays."""
    kept: NDArray[np.floating] = np.maximum(values, 0)
    return kept


def _windows(image: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.floating]:
    """View an image (H, W) as its windows, (H − f_h + 1, W − f_w + 1, f_h, f_w)."""
    windows: NDArray[np.floating] = sliding_window_view(image, shape)
    return windows
