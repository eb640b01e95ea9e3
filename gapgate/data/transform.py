"""Transform from the bytes of an image to the pixels that a network gets: decode → mode → square → resize.

Preprocess and serving both call this module, and `transform.json` holds its settings, so an image gives the same tensor
in training and in the server. NumPy and Pillow only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, ValidationError

from gapgate.artifacts import write_json
from gapgate.data.formats import MAX_PIXELS
from gapgate.data.picture.colour import conversion, to_srgb
from gapgate.data.picture.modes import MAX_WHITE, VERSION, in_eight_bits, on_background
from gapgate.data.picture.opening import damage_named, load_image, read_header
from gapgate.errors import ArtifactError, DataError
from gapgate.settings.base import Count, Section

REDUCING_GAP = 2.0
"""Least ratio of an image's size to its new size after it was averaged over whole blocks of pixels, which is done to
images more than 4 times too large. Pillow's own thumbnails do the same: the result hardly differs, and a photo takes a
fraction of the time."""

PIECE_PIXELS = 2**20
"""Number of pixels of a large image that are converted at a time; a copy of a whole 50-megapixel image takes 200 MB."""


class Transform(Section):
    """Settings of the path from a decoded image to (size_px, size_px, C) uint8 and to the network; `transform.json`."""

    size_px: Annotated[int, Field(ge=8, le=512)]
    """Side of the square result."""
    mode: Literal["gray", "rgb"]
    """Channels: one (ITU-R 601 luma of a colour image) or three (a gray image repeated)."""
    fit: Literal["pad", "crop"] = "pad"
    """Way to a square: pad the image with `fill`, or crop its central square."""
    margin_px: Annotated[int, Field(ge=0)] = 0
    """Border, in pixels of the result, that is cropped off on all sides together: the square that is kept is
    size_px / (size_px + margin_px) of the image's shorter side. Only with `fit: crop`."""
    fill: Annotated[int, Field(ge=0, le=255)] = 0
    """Pixel value of the padding, and behind transparent pixels."""
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    """Filter for resizing (antialiased when it shrinks)."""
    mean: tuple[float, ...] = ()
    """Mean of the training pixels in 0..1, (C,)."""
    std: tuple[float, ...] = ()
    """Standard deviation of the training pixels in 0..1, (C,)."""
    max_pixels: Count = MAX_PIXELS
    """Largest number of pixels of an image file; a larger one is refused before it is decoded."""
    white: Annotated[int, Field(ge=1, le=MAX_WHITE)] = MAX_WHITE
    """Value of white in 16-bit files: 4,095 where they hold the 12 bits of a camera; larger values are white too.
    A file that declares its own range keeps it."""
    version: Annotated[int, Field(ge=1, le=VERSION)] = VERSION
    """Version of the meaning of pixels (`gapgate.data.picture.modes.VERSION`): a package keeps that of its training."""

    @classmethod
    def from_file(cls, path: Path) -> Transform:
        """Read a `transform.json`.

        Raises:
            ArtifactError: the file is missing or holds something else.
        """
        try:
            found = cls.model_validate_json(path.read_text())
        except FileNotFoundError:
            raise ArtifactError(f"{path} is missing; run the preprocess step again") from None
        except ValidationError as error:
            raise ArtifactError(
                f"{path} is not a transform ({error.errors()[0]['msg']}); run preprocess again"
            ) from None
        # Files of the first version do not name it.
        return found if "version" in found.model_fields_set else found.model_copy(update={"version": 1})

    def write(self, path: Path) -> None:
        """Write a `transform.json`; equal settings give equal bytes."""
        write_json(path, self.model_dump(mode="json"))

    @property
    def channels(self) -> int:
        """Number of channels C: 1 for gray, 3 for RGB."""
        return 1 if self.mode == "gray" else 3

    def decode(self, data: bytes | Path) -> NDArray[np.uint8]:
        """Decode and resize an image file to (size_px, size_px, C) uint8.

        Raises:
            ImageError: the errors of `open_image`.
        """
        return self.apply_to_image(load_image(read_header(data, max_pixels=self.max_pixels)))

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize decoded pixels to (size_px, size_px, C) uint8.

        `pixels` is (H, W) or (H, W, C) with C = 1 gray, 2 gray and alpha, 3 RGB or 4 RGBA. Pixels that have the right
        shape already are returned as they are, without a copy.
        """
        is_whole = self.margin_px == 0 or self.fit == "pad"
        if is_whole and pixels.shape == (self.size_px, self.size_px, self.channels):
            return pixels
        # For one channel Pillow takes (H, W) alone.
        if pixels.ndim == 3 and pixels.shape[2] == 1:
            pixels = pixels[:, :, 0]
        if is_whole and self.mode == "gray" and pixels.shape == (self.size_px, self.size_px):
            return pixels[:, :, np.newaxis]
        return self.apply_to_image(Image.fromarray(pixels))

    def apply_to_array(self, pixels: Any) -> NDArray[np.uint8]:
        """`apply` for pixels that a caller gives: whole numbers of another type are taken where all are 0 to 255.

        Raises:
            DataError: they are no image.
        """
        array = np.asarray(pixels)
        # NumPy makes int64 of lists of Python's numbers, and of sums of uint8.
        if array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() <= 255:
            array = array.astype(np.uint8)
        channels = array.shape[2] if array.ndim == 3 else 1
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or not array.size or not 1 <= channels <= 4:
            raise DataError(
                f"an array of {array.dtype} with the shape {array.shape} is not an image; give (H, W) or (H, W, C) of "
                "uint8 with values of 0 to 255 and C = 1 gray, 2 gray and alpha, 3 RGB or 4 RGBA"
            )
        return self.apply(array)

    def apply_to_image(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize an image of `load_image` to (size_px, size_px, C) uint8.

        Raises:
            ImageError: the pixels have no fixed range, or the palette is corrupt.
        """
        with damage_named():
            pixels: NDArray[np.uint8] = np.asarray(
                self._in_mode(self._resize(image))
            )  # (h, w) or (h, w, 3), one of h and w is S
        height, width = pixels.shape[:2]
        if pixels.ndim == 2:
            pixels = pixels[:, :, np.newaxis]
        if pixels.shape == (self.size_px, self.size_px, self.channels):
            return pixels
        square = np.full((self.size_px, self.size_px, self.channels), self.fill, np.uint8)
        top, left = (self.size_px - height) // 2, (self.size_px - width) // 2
        square[top : top + height, left : left + width] = pixels
        return square

    def _resize(self, image: Image.Image) -> Image.Image:
        """Resize an image such that its longer side, or its cropped square, has `size_px` pixels."""
        # Padding comes later: a strip of 1 × 10⁷ pixels is small, its square is not.
        width, height = image.size
        left = top = 0
        if self.fit == "crop":
            side = _scaled(min(width, height), self.size_px + self.margin_px, self.size_px)
            left, top = (width - side) // 2, (height - side) // 2
            width = height = side
        longest = max(width, height)
        inner = (_scaled(width, longest, self.size_px), _scaled(height, longest, self.size_px))
        box = (left, top, left + width, top + height)
        if inner == (width, height):
            return self._plain(image.crop(box) if image.size != inner else image)
        resample = Image.Resampling[self.resample.upper()]
        factors = (_factor(width, inner[0]), _factor(height, inner[1]))
        # Nearest only picks pixels, so it can run first and leave fewer pixels to convert.
        if resample == Image.Resampling.NEAREST and not image.mode.startswith("I"):
            return self._plain(image.crop(box).resize(inner, resample))
        if resample == Image.Resampling.NEAREST or factors == (1, 1):
            return self._plain(image.crop(box)).resize(inner, resample)
        reduced = self._reduced(image, box, factors)
        # The last block of a row or column may be partial, so the box is a fraction: that of Pillow's own `resize`.
        return reduced.resize(inner, resample, box=(0, 0, width / factors[0], height / factors[1]))

    def _reduced(self, image: Image.Image, box: tuple[int, int, int, int], factors: tuple[int, int]) -> Image.Image:
        """Average `box` of an image over blocks of `factors` pixels, as Pillow's `resize` does, but piece by piece."""
        # Pieces begin at multiples of the factors, so no block lies in two of them and the result is the same as whole.
        left, top, right, bottom = box
        across = max(1, PIECE_PIXELS // (factors[0] * factors[1])) * factors[0]
        down = max(1, PIECE_PIXELS // (min(across, right - left) * factors[1])) * factors[1]
        size = (-(-(right - left) // factors[0]), -(-(bottom - top) // factors[1]))
        reduced = None
        for y in range(top, bottom, down):
            for x in range(left, right, across):
                piece = self._plain(image.crop((x, y, min(x + across, right), min(y + down, bottom)))).reduce(factors)
                if reduced is None:
                    reduced = Image.new(piece.mode, size)
                    reduced.info = piece.info  # with its profile
                reduced.paste(piece, ((x - left) // factors[0], (y - top) // factors[1]))
        assert reduced is not None  # an image has pixels
        return reduced

    def _plain(self, image: Image.Image) -> Image.Image:
        """Convert an image of any mode to L or RGB; to L if the network takes gray images. A profile stays with it."""
        image = in_eight_bits(image, self.white, self.version)
        if image.mode.endswith("A") and self.version >= 2:
            image = to_srgb(image)  # the background is sRGB
        image = on_background(image, self.fill)
        return image if self._has_profile(image) else self._in_mode(image)

    def _in_mode(self, image: Image.Image) -> Image.Image:
        """Convert an L or RGB image to sRGB, and to L if the network takes gray images."""
        # After resizing, where that is possible: littlecms takes 0.3 s for the 12 megapixels of a phone, which is three
        # times the decoding.
        if self._has_profile(image):
            image = to_srgb(image)
        return image.convert("L") if self.mode == "gray" and image.mode == "RGB" else image

    def _has_profile(self, image: Image.Image) -> bool:
        return self.version >= 2 and conversion(image) is not None


def _factor(length: int, inner: int) -> int:
    """Return the side of the blocks to average, as Pillow's `Image.resize` does with a `reducing_gap`."""
    return int(length / inner / REDUCING_GAP) or 1


def _scaled(length: int, longest: int, size_px: int) -> int:
    """Scale `length` by `size_px` / `longest`, rounded half up, at least 1."""
    # In whole numbers: a float could round a half either way.
    return max(1, (2 * length * size_px + longest) // (2 * longest))
