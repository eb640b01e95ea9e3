"""Reliability and expected calibration error: is an answer given with a confidence of 80 % right 80 % of the time?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FEW_IMAGES = 10
"""Number of images below which the accuracy of a bin says little: charts show it faint."""


def reliability(
    confidence: NDArray[np.float32], correct: NDArray[np.bool_], num_bins: int = 15
) -> tuple[float, list[dict[str, Any]]]:
    """Compute the expected calibration error and the bins behind it.

    Bins of equal width hold the confidences in (low, high]; the error is the mean distance between confidence and
    accuracy over bins, weighed by their images (Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3).

    Args:
        confidence: (n,) the largest probability of each image, n ≥ 1.
        correct: (n,) True where that class is the right one.
        num_bins: number of bins over 0..1.

    Returns:
        The error as a fraction, and for each bin low, high, num_images, confidence and accuracy (None if it is empty).
    """
    edges = np.linspace(0, 1, num_bins + 1)
    # Bins are closed on the right, (low, high]. A confidence of exactly 0 would get −1, so it goes into the first bin.
    member = np.clip(np.digitize(confidence, edges, right=True) - 1, 0, num_bins - 1)
    counts = np.bincount(member, minlength=num_bins)
    confidences = np.bincount(member, confidence.astype(np.float64), num_bins)
    rights = np.bincount(member, correct, num_bins)
    # Equation 3 weighs each bin's difference of means by its share of the images. Sums instead of means cancel the
    # division by the bin's count, so an empty bin needs no special case.
    error = float(np.abs(confidences - rights).sum() / len(confidence))
    bins = [
        {
            "low": float(edges[i]),
            "high": float(edges[i + 1]),
            "num_images": int(counts[i]),
            "confidence": float(confidences[i] / counts[i]) if counts[i] else None,
            "accuracy": float(rights[i] / counts[i]) if counts[i] else None,
        }
        for i in range(num_bins)
    ]
    return error, bins
