"""Search for images that are nearly the same: resized, re-compressed, brightened, shifted or lightly drawn over.

A perceptual hash has too few bits for that: on CIFAR-10 a threshold which finds 240 of 249 hand-judged pairs flags most
other images too (bench/RESULTS.md). So candidates are the nearest of a small gray picture, compared exactly as real
numbers, and their details then decide: two pictures of one kind agree in the rough, but only copies in the fine.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

THUMBNAIL_PX = 32
"""Side of the gray pictures that are compared."""
MIN_DETAIL = {3: 0.8, 1: 0.98}
"""Least correlation of the details of near-duplicates, by the number of channels. Gray sets are digits, clothes or
X-rays: all taken alike and without background, so that different ones correlate up to 0.97 (bench/RESULTS.md)."""
MIN_ROUGH = {3: 0.9, 1: 0.97}
"""Least correlation of the rough pictures of near-duplicates, by the number of channels."""
MAX_SHIFT_PX = {3: 2, 1: 0}
"""Largest shift between near-duplicates, in pixels of the thumbnail, by the number of channels. Gray sets have many
alike images, and 25 shifts of each candidate would take minutes."""
NUM_CANDIDATES = 4
"""Nearest rough pictures of each image, among those after it, whose details are compared."""
_ROUGH_PX = 8  # as in a perceptual hash, but not rounded to bits
_DETAIL_SIGMA_PX = 1.5
"""Details are what a Gaussian blur of this width takes away."""
_CHUNK_ROWS = 2048  # 8 MB of thumbnails in float32
_BLOCK_VALUES = 2**24
"""Number of correlations in memory at a time: 64 MB."""
_GRAY = np.array([0.299, 0.587, 0.114], np.float32)  # as Pillow's mode L, from ITU-R BT.601


def near_pairs(images: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find near-duplicates among `images[rows]`, (N, H, W, C) uint8.

    Time grows with the square of their number, at one product of matrices for each block. An image without details,
    such as a blank page, has no near-duplicates here; copies of it have the same content hash.

    Returns:
        Pairs of rows, (n, 2), the lower one first, in ascending order where `rows` are.
    """
    channels = images.shape[3]
    # float16 keeps an eighth of a gray level in 2 kB an image: 200 MB for 100,000.
    small = np.concatenate([_thumbnails(images, part).astype(np.float16) for part in _chunks(rows)])  # (N, 32, 32)
    rough = np.concatenate([_rough(small[part]) for part in _chunks(np.arange(len(rows)))])  # (N, 64)
    found = list(_candidates(rough, MIN_ROUGH[channels]))
    if not found:
        return np.empty((0, 2), np.int64)
    places = np.concatenate(found)  # (n, 2) places in `rows`
    # By the first place, then by the second: lexsort takes its last key first.
    places = places[np.lexsort(places.T[::-1])]
    kept = [
        part[
            detail_correlation(_details(small[part[:, 0]]), _details(small[part[:, 1]]), MAX_SHIFT_PX[channels])
            >= MIN_DETAIL[channels]
        ]
        for part in _chunks(places)
    ]
    return rows[np.concatenate(kept)]


def detail_correlation(one: NDArray[np.float32], other: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """Compute the largest correlation of each pair of pictures, (n, h, w) each, over the shifts up to
    `reach` pixels: (n,)."""
    size = one.shape[1]
    centre = slice(reach, size - reach)
    # The centre of one against each window of that size in the other: no pixel is invented beyond the edge.
    fixed = _unit(one[:, centre, centre].reshape(len(one), -1))  # (n, pixels of the centre)
    best = np.full(len(one), -1, np.float32)
    for down in range(2 * reach + 1):
        for right in range(2 * reach + 1):
            moved = other[:, down : down + size - 2 * reach, right : right + size - 2 * reach]
            best = np.maximum(best, np.einsum("ij,ij->i", fixed, _unit(moved.reshape(len(other), -1))))
    return best


def _thumbnails(images: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Shrink images to gray pictures, (N, THUMBNAIL_PX, THUMBNAIL_PX)."""
    small = np.empty((len(rows), THUMBNAIL_PX, THUMBNAIL_PX), np.float32)
    for place, row in enumerate(rows):
        pixels = images[row]
        gray = pixels[:, :, 0].astype(np.float32) if pixels.shape[2] == 1 else pixels @ _GRAY
        if pixels.shape[2] > 1:
            gray = _without_bars(gray)
        # As float32 (Pillow's mode F), so that nothing is rounded to 256 levels.
        if gray.shape != small.shape[1:]:
            gray = np.asarray(Image.fromarray(gray).resize(small.shape[1:], Image.Resampling.BOX))
        small[place] = gray
    return small


def _without_bars(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut off the rows and columns of one gray level at the edges: with them, padded photos looked alike (522 of 600
    of a folder were in a pair)."""
    rows, columns = (np.flatnonzero(np.ptp(gray, axis=axis) > 2) for axis in (1, 0))
    return gray[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) and len(columns) else gray


def _details(thumbnails: NDArray[np.float16]) -> NDArray[np.float32]:
    small = thumbnails.astype(np.float32)
    details: NDArray[np.float32] = small - gaussian_filter(small, (0, _DETAIL_SIGMA_PX, _DETAIL_SIGMA_PX))
    return details


def _chunks(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [rows[start : start + _CHUNK_ROWS] for start in range(0, len(rows), _CHUNK_ROWS)]


def _rough(small: NDArray[np.float16]) -> NDArray[np.float32]:
    """Shrink thumbnails further, take off the mean and scale to length 1: (N, _ROUGH_PX²)."""
    cells = (len(small), _ROUGH_PX, THUMBNAIL_PX // _ROUGH_PX, _ROUGH_PX, THUMBNAIL_PX // _ROUGH_PX)
    return _unit(small.astype(np.float32).reshape(cells).mean((2, 4)).reshape(len(small), -1))


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = values - values.mean(1, keepdims=True)
    # The least length is that of one gray level in each pixel: below it there is only noise, whose correlation means
    # nothing.
    length = np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), np.sqrt(values.shape[1], dtype=np.float32))
    scaled: NDArray[np.float32] = centred / length
    return scaled


def _candidates(rough: NDArray[np.float32], least: float) -> Iterator[NDArray[np.int64]]:
    """Yield pairs of places, (n, 2), of each image with the nearest later ones above the correlation `least`."""
    # Rows have length 1 and mean 0, so a product of matrices gives the correlations of a block with all later rows.
    step = max(1, _BLOCK_VALUES // len(rough))
    for start in range(0, len(rough), step):
        block = rough[start : start + step] @ rough[start:].T  # (step, N − start) correlations
        block[np.tril_indices(len(block))] = -1  # with itself and earlier ones
        near = block > least
        for row in np.flatnonzero(near.any(1)):
            found = np.flatnonzero(near[row])
            if len(found) > NUM_CANDIDATES:
                found = found[np.argpartition(-block[row, found], NUM_CANDIDATES)[:NUM_CANDIDATES]]
            yield np.stack([np.full(len(found), start + row), start + found], axis=1)
