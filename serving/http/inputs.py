"""Reader of the images in a request: its body, the files of a form, or a raw tensor for the network."""

from __future__ import annotations

import logging
import math
import warnings
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from gapgate.data.formats import format_of
from gapgate.errors import ImageError, ImageFault
from gapgate.onnx.classifier import shape_text
from serving.guard import image_guard
from serving.guard.image_guard import Limits
from serving.guard.memory import bytes_to_decode
from serving.http.form import Upload
from serving.http.request import FILES_TYPES, FORM_TYPE, IMAGE_TYPES, KNOWN_IMAGE_TYPES, TENSOR_TYPE, Request
from serving.http.responses import JSON_TYPE, ApiError
from serving.http.work import Cancelled, Work
from serving.model.predictor import Predictor

_NO_FILE = "no image came; send it as a file of a form (with curl: -F image=@FILE)"
_WHOLE = "send the whole file"
_REMEDIES = {
    ImageFault.EMPTY: _WHOLE,
    ImageFault.TRUNCATED: _WHOLE,
    ImageFault.TOO_MANY_PIXELS: "send a smaller image",
}
"""Remedies for a client, where those of `gapgate.errors.IMAGE_REMEDIES` are about files on disk."""
_EMPTY = "the image is empty, 0 bytes"
Outcome = dict[str, float] | ImageError
"""The most probable classes of an image with their probabilities, in descending order; or why it cannot be used."""
CHUNK = 64
"""Images of a batch that are classified between two checks whether the client is still there."""
MAX_FORM_FILES = 8
"""Most files in a form for one image."""
INLINE_BYTES = 64 * 1024
"""Largest file in bytes that is opened on the event loop. Pillow reads headers in Python: 100,000 empty chunks took
1.2 s."""
INLINE_PIXELS = 256 * 256
"""Largest image in pixels that is decoded on the event loop, in about 1 ms; larger ones go to a thread. A 28 px image
took 0.68 ms (99th percentile 2.0 ms) on the loop and 0.81 ms (7.2 ms) in a thread, which has to wait for the GIL."""

PngImagePlugin.MAX_TEXT_MEMORY = 2**19
"""Most bytes of decompressed texts in a PNG file. A file of 70 kB reaches Pillow's own limit of 64 MiB, in 0.4 s."""

warnings.filterwarnings("ignore", module=r"PIL\.")  # a client's file could write 131,000 lines to the log
logging.getLogger("PIL").setLevel(logging.CRITICAL)


async def read_upload(request: Request) -> Upload:
    """Receive the image of a request: its body, the form's field `image`, or the only file of a form or of JSON.

    Raises:
        ApiError: 415, another content type; 400, there is no image or more than one; and those of `Request.body`.
    """
    content_type = request.content_type
    if content_type in FILES_TYPES:
        files = await request.files(MAX_FORM_FILES)
        named = [file for file in files if file.field == "image"] or files
        if not named:
            raise ApiError("missing_image", _NO_FILE)
        if len(named) > 1:
            raise ApiError("bad_request", f"{len(named)} images came; send one, or all to /v1/predict/batch")
        data = named[0].data
    elif content_type in KNOWN_IMAGE_TYPES or content_type == TENSOR_TYPE:
        data = await request.body()
    else:
        raise _unsupported(content_type, (*IMAGE_TYPES, FORM_TYPE, JSON_TYPE, TENSOR_TYPE))
    return _upload(data, content_type)


async def read_uploads(request: Request, max_files: int) -> list[Upload]:
    """Receive the files of a form or of JSON, or one upload that is a tensor of several images.

    Raises:
        ApiError: those of `read_upload`; 413, more than `max_files` files.
    """
    content_type = request.content_type
    if content_type in FILES_TYPES:
        uploads = await request.files(max_files)
    elif content_type == TENSOR_TYPE:
        uploads = [_upload(await request.body(), content_type)]
    else:
        raise _unsupported(content_type, (FORM_TYPE, JSON_TYPE, TENSOR_TYPE))
    if not uploads:
        raise ApiError("missing_image", _NO_FILE)
    return uploads


def _upload(data: bytes, content_type: str) -> Upload:
    """Return a body that is not empty. Bytes of no declared type are what some clients send of an image file (aiohttp,
    Azure): those that begin like one are one, since no tensor begins so by chance."""
    if not data:
        raise ApiError("missing_image", f"{_EMPTY}; {_WHOLE}")
    # FF D8 FF FF can be two pink pixels; after FF D8 FF of a JPEG file comes another byte.
    is_file = format_of(data) is not None and not data.startswith(b"\xff\xd8\xff\xff")
    return Upload(data, is_tensor=content_type == TENSOR_TYPE and not is_file)


async def decode(work: Work, request: Request, predictor: Predictor, upload: Upload) -> NDArray[np.uint8]:
    """Decode one image to (1, H, W, C) uint8.

    Raises:
        ApiError: 400, the upload is no image; and those of `Work.in_thread`.
    """
    if upload.is_tensor:
        images = from_tensor(predictor, upload.data)
        if len(images) > 1:
            raise ApiError("wrong_shape", f"{len(images)} images came; send one, or all to /v1/predict/batch")
        return images
    limits = work.limits
    try:
        # Two limits: the size of the file bounds the time to open it, the number of pixels the time to decode it, and
        # that number is known only after opening.
        if len(upload.data) > INLINE_BYTES:
            pixels = await work.in_thread(
                request, lambda _: _pixels(predictor, _open(predictor, upload, limits), limits)
            )
        elif (image := _open(predictor, upload, limits)).width * image.height > INLINE_PIXELS:
            pixels = await work.in_thread(request, lambda _: _pixels(predictor, image, limits))
        else:
            pixels = predictor.pixels(image)
        return pixels[np.newaxis]
    except ImageError as error:
        raise ApiError("invalid_image", str(error.advised(_REMEDIES))) from None


def decode_all(
    predictor: Predictor, uploads: list[Upload], limits: Limits, cancelled: Cancelled
) -> list[NDArray[np.uint8] | ImageError]:
    """Decode each image file to (H, W, C) uint8, or return its error; stop early if nobody waits any more."""
    decoded: list[NDArray[np.uint8] | ImageError] = []
    for upload in uploads:
        if cancelled():
            break
        try:
            decoded.append(_pixels(predictor, _open(predictor, upload, limits), limits))
        except ImageError as error:
            decoded.append(error.advised(_REMEDIES))
    return decoded


def classify_files(
    predictor: Predictor, uploads: list[Upload], limits: Limits, top_k: int, cancelled: Cancelled
) -> list[Outcome]:
    """Return the answer to each image file; some are missing or empty if nobody waits any more."""
    decoded = decode_all(predictor, uploads, limits, cancelled)
    images = [found for found in decoded if not isinstance(found, ImageError)]
    ranked = iter(rank(predictor, np.stack(images), top_k, cancelled) if images else ())
    return [found if isinstance(found, ImageError) else next(ranked, {}) for found in decoded]


def rank(predictor: Predictor, images: NDArray[np.uint8], top_k: int, cancelled: Cancelled) -> list[dict[str, float]]:
    """Return the `top_k` classes of each image in (N, H, W, C) uint8; fewer if nobody waits any more."""
    ranked: list[dict[str, float]] = []
    for start in range(0, len(images), CHUNK):
        if cancelled():
            break
        ranked += predictor.ranked(predictor.probabilities(images[start : start + CHUNK]), top_k)
    return ranked


def _open(predictor: Predictor, upload: Upload, limits: Limits) -> Image.Image:
    """Open an image file up to its size.

    Raises:
        ImageError: the error of `Predictor.open`, or the file would cost much time or memory.
    """
    if not upload.data:
        raise ImageError(ImageFault.EMPTY, _EMPTY)
    image_guard.check(upload.data, limits.formats)  # before Pillow sees the file: for some, opening is what takes long
    return predictor.open(upload.data, limits.max_pixels)


def _pixels(predictor: Predictor, image: Image.Image, limits: Limits) -> NDArray[np.uint8]:
    """Decode an image of `_open` to (H, W, C) uint8.

    Raises:
        ImageError: the error of `Predictor.pixels`, or it takes more memory than there is.
        ApiError: 429, others are being decoded, and both do not fit into memory.
    """
    with limits.memory.held(bytes_to_decode(image)) if limits.memory else nullcontext():
        return predictor.pixels(image)


def from_tensor(predictor: Predictor, data: bytes) -> NDArray[np.uint8]:
    """Return the images of a raw tensor as (N, H, W, C) uint8 with N ≥ 1.

    Raises:
        ApiError: 400, the bytes are not those of whole images.
    """
    shape = predictor.classifier.image_shape
    size = math.prod(shape)
    if not data or len(data) % size:
        found = f"{len(data):,} bytes are not a tensor of {shape_text(shape)} uint8, {size:,} bytes an image"
        remedy = "send them in the order height, width, channel; an image file needs its own content type"
        raise ApiError("wrong_shape", f"{found}; {remedy}")
    return np.frombuffer(data, np.uint8).reshape(-1, *shape)


def _unsupported(content_type: str, accepted: tuple[str, ...]) -> ApiError:
    listed = ", ".join(accepted)
    found = f"content type {content_type} is not accepted" if content_type else "no content type was sent"
    message = f"{found}; send one of {listed} (with curl: -F image=@FILE)"
    return ApiError("unsupported_media_type", message, {"Accept-Post": listed})
