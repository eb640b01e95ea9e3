"""Transform from the bytes of an image to the pixels that a network gets: decode → mode → square → resize.

Preprocess and serving both call this module, and `transform.json` holds its settings, so an image gives the same tensor
in training and in the server. NumPy and Pillow only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field, ValidationError

from gapgate.artifacts import write_json
from gapgate.data import formats
from gapgate.errors import ArtifactError, ImageError, ImageFault
from gapgate.settings.base import Count, Section

FORMATS = tuple(form.name for form in formats.FORMATS)
"""Formats that Pillow may open; every further format is further attack surface."""

REDUCING_GAP = 2.0
"""Least ratio of an image's size to its new size after it was averaged over whole blocks of pixels, which is done to
images more than 4 times too large. Pillow's own thumbnails do the same: the result hardly differs, and a photo takes a
fraction of the time."""

_ORIENTED = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
"""Keys of `Image.info` under which Pillow keeps the orientation that it read."""

PIECE_PIXELS = 2**20
"""Number of pixels of a large image that are converted at a time; a copy of a whole 50-megapixel image takes 200 MB."""


MAX_WHITE = 65_535
"""Largest value of a 16-bit image."""


def open_image(data: bytes | Path, *, max_pixels: int, white: int = MAX_WHITE) -> Image.Image:
    """Decode the first frame of an image file, upright by its EXIF orientation, as L, LA, RGB or RGBA with 8 bits;
    `white` is the value of white in 16-bit files.

    Raises:
        ImageError: the file is in another format, truncated or corrupt, or has more than `max_pixels` pixels (found
            before decoding).
    """
    image = load_image(read_header(data, max_pixels=max_pixels))
    with _damage_named():
        return _in_eight_bits(image, white)


def load_image(header: Image.Image) -> Image.Image:
    """Decode an image of `read_header` to an upright image of any mode, for `Transform.apply_to_image`.

    Raises:
        ImageError: the file is truncated or corrupt.
    """
    with header as image, _damage_named():
        image.load()
        # Reads the EXIF data once and keeps it. Without the removal of the keys, exif_transpose would write the data
        # again; a file with 1.2 million fractions in it took 17 s.
        image.getexif()
        for key in _ORIENTED:
            image.info.pop(key, None)
        ImageOps.exif_transpose(image, in_place=True)
        return image


def read_header(data: bytes | Path, *, max_pixels: int) -> Image.Image:
    """Read the header of an image file: the size is known then, and no pixel is decoded yet.

    Raises:
        ImageError: the file is in another format, its header is damaged, or it has more than `max_pixels` pixels.
    """
    with _damage_named():
        try:
            image = Image.open(BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS)
        # Pillow's own limits: an error from 179 million pixels on, and a warning from 89 million, which arrives here
        # where warnings are errors.
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            reason = f"more pixels than the limit of {max_pixels:,} pixels"
            raise ImageError(ImageFault.TOO_MANY_PIXELS, reason) from None
        if image.width * image.height > max_pixels:
            image.close()
            reason = f"{image.width} x {image.height} pixels exceed the limit of {max_pixels:,} pixels"
            raise ImageError(ImageFault.TOO_MANY_PIXELS, reason)
        return image


@contextmanager
def _damage_named() -> Iterator[None]:
    """Turn the exceptions of Pillow's decoders into an `ImageError` with the reason."""
    try:
        yield
    except (ImageError, MemoryError):
        raise  # a full memory says nothing about the file
    except UnidentifiedImageError:
        reason = f"not an image in one of the formats {', '.join(FORMATS)}"
        raise ImageError(ImageFault.UNKNOWN_FORMAT, reason) from None
    except Exception as error:  # damaged files make them raise about any type
        raise _damage(error) from None


def on_background(image: Image.Image, fill: int) -> Image.Image:
    """Composite an LA or RGBA image on a plain background of value `fill`; return other images unchanged."""
    if image.mode not in ("LA", "RGBA"):
        return image
    opaque = image.convert("L" if image.mode == "LA" else "RGB")
    background = Image.new(opaque.mode, image.size, fill if opaque.mode == "L" else (fill, fill, fill))
    return Image.composite(opaque, background, image.getchannel("A"))


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
    max_pixels: Count = 50_000_000
    """Largest number of pixels of an image file; a larger one is refused before it is decoded."""
    white: Annotated[int, Field(ge=1, le=MAX_WHITE)] = MAX_WHITE
    """Value of white in 16-bit files: 4,095 where they hold the 12 bits of a camera; larger values are white too."""

    @classmethod
    def from_file(cls, path: Path) -> Transform:
        """Read a `transform.json`.

        Raises:
            ArtifactError: the file is missing or holds something else.
        """
        try:
            return cls.model_validate_json(path.read_text())
        except FileNotFoundError:
            raise ArtifactError(f"{path} is missing; run the preprocess step again") from None
        except ValidationError as error:
            raise ArtifactError(
                f"{path} is not a transform ({error.errors()[0]['msg']}); run preprocess again"
            ) from None

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
        if pixels.ndim == 3 and pixels.shape[2] == 1:
            pixels = pixels[:, :, 0]
        if is_whole and self.mode == "gray" and pixels.shape == (self.size_px, self.size_px):
            return pixels[:, :, np.newaxis]
        return self.apply_to_image(Image.fromarray(pixels))

    def apply_to_image(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize an image of `load_image` to (size_px, size_px, C) uint8.

        Raises:
            ImageError: the pixels have no fixed range, or the palette is corrupt.
        """
        with _damage_named():
            pixels: NDArray[np.uint8] = np.asarray(self._resize(image))  # (h, w) or (h, w, 3), one of h and w is S
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
                reduced = reduced or Image.new(piece.mode, size)
                reduced.paste(piece, ((x - left) // factors[0], (y - top) // factors[1]))
        assert reduced is not None  # an image has pixels
        return reduced

    def _plain(self, image: Image.Image) -> Image.Image:
        """Convert an image of any mode to L or RGB; to L if the network takes gray images."""
        image = on_background(_in_eight_bits(image, self.white), self.fill)
        return image.convert("L") if self.mode == "gray" and image.mode == "RGB" else image


def _factor(length: int, inner: int) -> int:
    """Return the side of the blocks to average, as Pillow's `Image.resize` does with a `reducing_gap`."""
    return int(length / inner / REDUCING_GAP) or 1


def _scaled(length: int, longest: int, size_px: int) -> int:
    """Scale `length` by `size_px` / `longest`, rounded half up, at least 1."""
    # In whole numbers: a float could round a half either way.
    return max(1, (2 * length * size_px + longest) // (2 * longest))


def _in_eight_bits(image: Image.Image, white: int) -> Image.Image:
    """Convert an image of any mode that Pillow decodes to L, LA, RGB or RGBA."""
    mode = image.mode
    if mode.startswith("I"):
        return _from_sixteen_bits(np.asarray(image), white)
    if mode == "F":
        raise ImageError(ImageFault.NO_FIXED_RANGE, "floating-point pixels have no fixed range")
    gray = mode in ("1", "L", "LA", "La")
    target = ("L" if gray else "RGB") + ("A" if image.has_transparency_data else "")
    return image if mode == target else image.convert(target)


def _from_sixteen_bits(values: NDArray[Any], white: int) -> Image.Image:
    """Convert gray values 0..`white`, (H, W), to the nearest of 0..255."""
    # Pillow's own conversion clips at 255 instead of scaling.
    if values.size and (values.min() < 0 or values.max() > MAX_WHITE):
        raise ImageError(ImageFault.NO_FIXED_RANGE, "32-bit pixels have no fixed range")
    scaled = (2 * 255 * np.minimum(values, white).astype(np.uint32) + white) // (2 * white)
    return Image.fromarray(scaled.astype(np.uint8))


def _damage(error: Exception) -> ImageError:
    """Turn an exception of Pillow into an `ImageError`; its reason has no paths or addresses, so it is reproducible."""
    if isinstance(error, OSError) and error.errno is not None:
        return ImageError(ImageFault.UNREADABLE, f"cannot be read: {error.strerror}")
    text = " ".join(str(error).split())
    if "truncated" in text.lower():  # Pillow has no type of error for it
        return ImageError(ImageFault.TRUNCATED, "the image is truncated")
    # Pillow's own errors are OSError and SyntaxError, with a text for people; the text of others, such as an IndexError
    # or struct.error deep inside, tells a user nothing.
    named = text[:100] if isinstance(error, (OSError, SyntaxError)) and text else type(error).__name__
    return ImageError(ImageFault.DAMAGED, f"the image is corrupt: {named}")
