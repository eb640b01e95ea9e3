"""Convolution explained on one image, with a classical kernel in NumPy or with the layers of a trained network.

The results are PNG files, and `look.html` with all of them inside. Equal inputs give equal bytes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from gapgate.artifacts import write_text
from gapgate.data.formats import MAX_PIXELS
from gapgate.data.picture.modes import on_background
from gapgate.data.picture.opening import open_image
from gapgate.errors import DataError, SettingsError, storage_errors
from gapgate.onnx.feature_maps import MAX_LAYERS, first_filters
from gapgate.onnx.graph import Stage, both_sides, graph_layers, size_in_words
from gapgate.onnx.inner_layers import InnerLayers
from gapgate.report import figures, html
from gapgate.report.tour import convolution, pictures

PAGE = "look.html"
MAX_SIDE_PX = 128
"""Longest side of an image that is shown with a classical kernel: single pixels can still be made out."""
_MIN_SIDE_PX = 4
"""Least side of an image: a 3×3 kernel and a 2×2 pool leave one value of it."""
_WHITE = 255


def gray_image(data: bytes) -> NDArray[np.uint8]:
    """Read an image file in gray, upright and in its own proportions: (H, W) uint8 with sides up to `MAX_SIDE_PX`.

    Raises:
        ImageError: the errors of `gapgate.data.picture.opening.open_image`.
    """
    picture = on_background(open_image(data, max_pixels=MAX_PIXELS), _WHITE).convert("L")
    picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def check_kernel(name: str) -> None:
    """Check that a kernel has this name.

    Raises:
        SettingsError: no kernel has it.
    """
    if name not in convolution.KERNELS:
        raise SettingsError(f"no kernel {name}; take learned or one of {', '.join(convolution.KERNELS)}")


def with_kernel(image: NDArray[np.uint8], name: str, folder: Path, title: str) -> list[Stage]:
    """Apply convolution with the kernel `name`, ReLU and 2×2 max pool to an image (H, W) uint8, as first layers do.

    `stages.png`, `kernel.png` and the page are written into `folder`; the stages are returned.

    Raises:
        DataError: the image is too small.
    """
    if min(image.shape) < _MIN_SIDE_PX:
        raise DataError(f"an image of {image.shape[0]}×{image.shape[1]} pixels is too small; take one of 4×4 or more")
    kernel = np.array(convolution.KERNELS[name], np.float64)  # (3, 3)
    convolved = convolution.convolve(image.astype(np.float64), kernel)
    rectified = convolution.relu(convolved)
    pooled = convolution.max_pool(rectified)
    stages = [
        Stage("image", "one channel, values 0 to 255", (*image.shape, 1)),
        Stage(
            "1 convolution",
            f"the kernel {name} slid over the image: at each place the sum of 9 products",
            (*convolved.shape, 1),
            kernel.size,
            _sizes(image.shape, 3, 1),
            "3·3, set by hand",
        ),
        Stage("2 ReLU", "negative values become 0", (*rectified.shape, 1)),
        Stage("3 max pool", "the largest of each 2×2", (*pooled.shape, 1), 0, _sizes(rectified.shape, 2, 2)),
    ]
    # The strongest answer of the kernel is the most telling place to work out.
    place = np.unravel_index(np.abs(convolved).argmax(), convolved.shape)
    maps = [image.astype(np.float64), convolved, rectified, pooled]
    # Drawn in a folder apart, since only the light versions are kept as files; the page has both inside.
    with tempfile.TemporaryDirectory() as scratch:
        # A kernel whose numbers add up to 0 gives 0 on a plain area, so its results lie around 0.
        pictures.stages(Path(scratch), stages, maps, (int(place[0]), int(place[1])), signed=bool(kernel.sum() == 0))
        pictures.kernel(Path(scratch), name, image, convolution.KERNELS[name], (int(place[0]), int(place[1])))
        _write(folder, Path(scratch), title, stages, name, "")
    return stages


def with_network(
    image: NDArray[np.uint8],
    layers: InnerLayers,
    model_path: Path,
    folder: Path,
    title: str,
    answer: str,
    max_layers: int | None = None,
) -> list[Stage]:
    """Show the output of a network's layers for an image.

    `filters.png`, `feature_maps.png` and the page are written into `folder`; all stages are returned.

    Args:
        image: (H, W, C) uint8, as the network takes it.
        layers: inner layers of the network.
        model_path: path of its `model.onnx`.
        folder: folder of the files; created if it does not exist.
        title: title of the page.
        answer: answer of the network, in words.
        max_layers: largest number of layers whose feature maps are drawn, 24 by default.

    Raises:
        DataError: the network has no convolution.
    """
    model = onnx.load(model_path)
    filters = first_filters(model)
    maps = layers.feature_maps(image, max_layers or MAX_LAYERS)
    if filters is None or not maps:
        raise DataError("the network has no convolution to look at; name a kernel, such as --kernel edge")
    height, width, channels = image.shape
    taken = "one channel, values 0 to 255" if channels == 1 else f"{channels} channels, values 0 to 255"
    stages = [Stage("image", taken, (height, width, channels)), *graph_layers(model)]
    with tempfile.TemporaryDirectory() as scratch:
        figures.filters(Path(scratch), filters)
        figures.feature_maps(Path(scratch), image, maps)
        _write(folder, Path(scratch), title, stages, "learned", answer)
    return stages


def _sizes(shape: tuple[int, ...], window: int, stride: int) -> tuple[str, ...]:
    return both_sides(*(size_in_words(side, window, stride) for side in shape))


def _write(folder: Path, drawn: Path, title: str, stages: Sequence[Stage], kernel: str, answer: str) -> None:
    """Write the page with the pictures in `drawn`, and their light versions beside it."""
    page = html.render_page("look.html.j2", drawn, title=title, stages=stages, kernel=kernel, answer=answer)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(drawn.glob("*.png")):
            shutil.copyfile(path, folder / path.name)
        write_text(folder / PAGE, page)
