"""The images in a request: as its body, as files of a form, or as the network's own tensor."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from gapgate.errors import ImageError, ImageFault
from serving import image_guard
from serving.form import FormFile
from serving.predictor import Predictor
from serving.request import FORM_TYPE, IMAGE_TYPES, OTHER_IMAGE_TYPES, TENSOR_TYPE, Request
from serving.responses import ApiError
from serving.work import Cancelled, Work

_NO_FILE = "the form holds no file; send the image as one (with curl: -F image=@FILE)"
_WHOLE = "send the whole file"
_REMEDIES = {
    ImageFault.EMPTY: _WHOLE,
    ImageFault.TRUNCATED: _WHOLE,
    ImageFault.TOO_MANY_PIXELS: "send a smaller image",
}
"""What a client can do, where `gapgate.errors.IMAGE_REMEDIES` speaks of files."""
_EMPTY = "the image is empty, 0 bytes"
MAX_FORM_FILES = 8
"""Files of a form of which one is the image."""
INLINE_BYTES = 64 * 1024
"""Largest file that is opened on the event loop. Pillow reads headers in Python: 100,000 empty chunks took 1.2 s."""
INLINE_PIXELS = 256 * 256
"""Largest image that is decoded on the event loop, which it holds for about 1 ms; larger ones go to a thread. A 28 px
image took 0.68 ms (99th percentile 2.0) on the loop and 0.81 ms (7.2) by a thread, which waits for the GIL."""

PngImagePlugin.MAX_TEXT_MEMORY = 2**19
"""Texts in one PNG file, decompressed. Pillow's own limit of 64 MiB is reached by a file of 70 kB, in 0.4 s."""

warnings.filterwarnings("ignore", module=r"PIL\.")  # a client's file could write 131,000 lines to the log
logging.getLogger("PIL").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Upload:
    """One image as it came."""

    data: bytes
    is_tensor: bool = False
    filename: str | None = None


async def read_upload(request: Request) -> Upload:
    """The image in a request: its body, the form's field `image`, or the form's only file.

    Raises:
        ApiError: 415 for another content type, 400 where there is no image, and as `Request.body`.
    """
    content_type = request.content_type
    if content_type == FORM_TYPE:
        data = _one_of(await request.files(MAX_FORM_FILES))
    elif content_type in (*IMAGE_TYPES, *OTHER_IMAGE_TYPES, TENSOR_TYPE):
        data = await request.body()
    else:
        raise _unsupported(content_type, (*IMAGE_TYPES, FORM_TYPE, TENSOR_TYPE))
    if not data:
        raise ApiError(400, "missing_image", f"{_EMPTY}; {_WHOLE}")
    return Upload(data, is_tensor=content_type == TENSOR_TYPE)


async def read_uploads(request: Request, max_files: int) -> list[Upload]:
    """The files of a form, or one upload that is a tensor of several images.

    Raises:
        ApiError: as `read_upload`; 413 for more than `max_files` files.
    """
    content_type = request.content_type
    if content_type == FORM_TYPE:
        uploads = [Upload(file.data, filename=file.filename) for file in await request.files(max_files)]
    elif content_type == TENSOR_TYPE:
        uploads = [Upload(await request.body(), is_tensor=True)]
        if not uploads[0].data:
            raise ApiError(400, "missing_image", f"{_EMPTY}; {_WHOLE}")
    else:
        raise _unsupported(content_type, (FORM_TYPE, TENSOR_TYPE))
    if not uploads:
        raise ApiError(400, "missing_image", _NO_FILE)
    return uploads


def _one_of(files: list[FormFile]) -> bytes:
    """The file of the field `image`, or the only one."""
    if not files:
        raise ApiError(400, "missing_image", _NO_FILE)
    named = [file for file in files if file.field == "image"] or files
    if len(named) > 1:
        raise ApiError(400, "bad_request", f"{len(named)} images came; send one, or all to /v1/predict/batch")
    return named[0].data


async def decode(work: Work, request: Request, predictor: Predictor, upload: Upload) -> NDArray[np.uint8]:
    """One image as (1, H, W, C) uint8.

    Raises:
        ApiError: 400 for what is no image, and as `Work.in_thread`.
    """
    if upload.is_tensor:
        images = from_tensor(predictor, upload.data)
        if len(images) > 1:
            raise ApiError(400, "wrong_shape", f"{len(images)} images came; send one, or all to /v1/predict/batch")
        return images
    max_pixels = request.options.max_pixels
    try:
        if len(upload.data) > INLINE_BYTES:
            pixels = await work.in_thread(request, lambda _: predictor.pixels(_open(predictor, upload, max_pixels)))
        elif (image := _open(predictor, upload, max_pixels)).width * image.height > INLINE_PIXELS:
            pixels = await work.in_thread(request, lambda _: predictor.pixels(image))
        else:
            pixels = predictor.pixels(image)
        return pixels[np.newaxis]
    except ImageError as error:
        raise invalid_image(error.advised(_REMEDIES)) from None


def decode_all(
    predictor: Predictor, uploads: list[Upload], max_pixels: int, cancelled: Cancelled
) -> list[NDArray[np.uint8] | ImageError]:
    """Each image file as (H, W, C) uint8, or what is wrong with it; the rest is left out when nobody waits."""
    decoded: list[NDArray[np.uint8] | ImageError] = []
    for upload in uploads:
        if cancelled():
            break
        try:
            decoded.append(predictor.pixels(_open(predictor, upload, max_pixels)))
        except ImageError as error:
            decoded.append(error.advised(_REMEDIES))
    return decoded


def _open(predictor: Predictor, upload: Upload, max_pixels: int) -> Image.Image:
    """An image file whose size is known.

    Raises:
        ImageError: as `Predictor.open`, and for what takes long or much memory to find out.
    """
    if not upload.data:
        raise ImageError(ImageFault.EMPTY, _EMPTY)
    image_guard.check(upload.data)
    return predictor.open(upload.data, max_pixels)


def from_tensor(predictor: Predictor, data: bytes) -> NDArray[np.uint8]:
    """(N, H, W, C) uint8.

    Raises:
        ApiError: 400, not the bytes of whole images.
    """
    try:
        return predictor.from_tensor(data)
    except ImageError as error:
        raise ApiError(400, "wrong_shape", str(error)) from None


def invalid_image(error: ImageError) -> ApiError:
    """What is wrong with an image, as an answer."""
    return ApiError(400, "invalid_image", str(error))


def _unsupported(content_type: str, accepted: tuple[str, ...]) -> ApiError:
    listed = ", ".join(accepted)
    found = f"content type {content_type} is not accepted" if content_type else "no content type was sent"
    message = f"{found}; send one of {listed} (with curl: -F image=@FILE)"
    return ApiError(415, "unsupported_media_type", message, {"Accept-Post": listed})
