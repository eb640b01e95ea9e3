"""Image files opened by Pillow: header first, then pixels, and every fault as an `ImageError` with its reason."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path

from PIL import AvifImagePlugin, Image, ImageOps, UnidentifiedImageError, _imaging

from gapgate.data.formats import FORMATS, HEAD_BYTES, Format, format_of, listed
from gapgate.data.picture.modes import MAX_WHITE, declare, in_eight_bits
from gapgate.errors import ImageError, ImageFault

_ORIENTED = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
"""Keys of `Image.info` under which Pillow keeps the orientation that it read."""
_HEADER_BYTES = 33
"""Bytes of the shortest PNG header with its signature; a file that ends before it is cut off."""


def open_image(data: bytes | Path, *, max_pixels: int, white: int = MAX_WHITE) -> Image.Image:
    """Decode the first frame of an image file, upright by its EXIF orientation, as L, LA, RGB or RGBA with 8 bits;
    `white` is the value of white in 16-bit files that declare none.

    Raises:
        ImageError: the file is in another format, truncated or corrupt, or has more than `max_pixels` pixels (found
            before decoding).
    """
    header = read_header(data, max_pixels=max_pixels)
    form = header.format
    image = load_image(header)
    with damage_named():
        converted = in_eight_bits(image, white)
    converted.format = form
    return converted


def load_image(header: Image.Image) -> Image.Image:
    """Decode an image of `read_header` to an upright image of any mode, for `Transform.apply_to_image`.

    Raises:
        ImageError: the file is truncated or corrupt.
    """
    with header as image, damage_named():
        image.load()
        declare(image)
        return _upright(image)


def of_picture(picture: Image.Image) -> Image.Image:
    """Convert an image that Pillow has opened or made to what `load_image` gives of a file; `picture` stays as it is.

    Raises:
        ImageError: its file is truncated or corrupt.
    """
    with damage_named():
        copy = picture.copy()
        declare(copy, getattr(picture, "tag_v2", {}))  # a copy loses them
        return _upright(copy)


def _upright(image: Image.Image) -> Image.Image:
    # Reads the EXIF data once and keeps it. Without the removal of the keys, exif_transpose would write the data again;
    # a file with 1.2 million fractions in it took 17 s.
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
    with damage_named():
        form = _format(data)
        _prepare(form)
        try:
            image = Image.open(BytesIO(data) if isinstance(data, bytes) else data, formats=[form.pillow])
        # Pillow's own limits: an error from 179 million pixels on, and a warning from 89 million, which arrives here
        # where warnings are errors.
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            reason = f"more pixels than the limit of {max_pixels:,} pixels"
            raise ImageError(ImageFault.TOO_MANY_PIXELS, reason) from None
        except UnidentifiedImageError:
            raise _refusal(data, form) from None
        if image.width * image.height > max_pixels:
            image.close()
            reason = f"{image.width} x {image.height} pixels exceed the limit of {max_pixels:,} pixels"
            raise ImageError(ImageFault.TOO_MANY_PIXELS, reason)
        return image


def unknown_format(formats: tuple[Format, ...] = FORMATS) -> ImageError:
    """Return the error for bytes that are no image of any of the formats."""
    return ImageError(ImageFault.UNKNOWN_FORMAT, f"not an image in one of the formats {listed(formats)}")


@contextmanager
def damage_named() -> Iterator[None]:
    """Turn the exceptions of Pillow's decoders into an `ImageError` with the reason."""
    try:
        yield
    except (ImageError, MemoryError):
        raise  # a full memory says nothing about the file
    except Exception as error:  # damaged files make them raise about any type
        raise _damage(error) from None


def _format(data: bytes | Path) -> Format:
    """Return the format of a file; Pillow then tries this one alone."""
    if isinstance(data, bytes):
        head = data[:HEAD_BYTES]
    else:
        with data.open("rb") as file:
            head = file.read(HEAD_BYTES)
    if not head:
        raise ImageError(ImageFault.EMPTY, "the file is empty")
    if (form := format_of(head)) is None:
        raise unknown_format()
    return form


def _prepare(form: Format) -> None:
    """Load what Pillow lacks for a format.

    Raises:
        ImageError: HEIC without the library for it.
    """
    if form.name == "TIFF":
        silence_libtiff()
    elif form.name == "AVIF":
        AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # training and the server have a worker for each processor already
    elif form.name == "HEIC" and not has_heic():
        reason, remedy = "a HEIC file, and pillow-heif is not installed", "install pillow-heif, or save it as JPEG"
        raise ImageError(ImageFault.UNSUPPORTED, reason, remedy)


@cache
def has_heic() -> bool:
    """True if HEIC files can be read here; from then on Pillow can."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    # As for AVIF above.
    pillow_heif.options.DECODE_THREADS = 1
    return True


@cache
def silence_libtiff() -> bool:
    """Keep libtiff from writing to standard error, where a damaged file makes it write a line for each row: a file of
    100 kB wrote 1.3 GB. False if this build of Pillow hides the function."""
    try:
        library = ctypes.CDLL(_imaging.__file__)  # finds functions of the libraries below as well
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            setter = getattr(library, name)
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)
    except (AttributeError, OSError):
        return False
    return True


def _refusal(data: bytes | Path, form: Format) -> ImageError:
    """Return the reason why Pillow does not open a file that begins like `form`: it tells no more than "cannot
    identify", but the reader of that format knows."""
    data = data if isinstance(data, bytes) else data.read_bytes()
    try:
        Image.OPEN[form.pillow][0](BytesIO(data), "").close()
    except Exception as error:
        # An end of the file in mid-header reaches us as any of these.
        ends = isinstance(error, EOFError | IndexError | struct.error) or len(data) < _HEADER_BYTES
        text = " ".join(str(error).split())[:100]
        if ends or "truncated" in text.lower() or "not identified" in text or not text:
            return ImageError(ImageFault.TRUNCATED, "the image is truncated")
        return ImageError(ImageFault.UNSUPPORTED, f"this {form.name} file cannot be read: {text}")
    return ImageError(ImageFault.DAMAGED, f"the image is corrupt: its {form.name} header")


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
