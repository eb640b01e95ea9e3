"""Golden images: pictures inside the package with the logits that they gave when it was made.

A server runs them before it is ready. They exercise the parts in which two machines may differ: the decoders and
conversions of Pillow (EXIF orientation, palette, transparency, CMYK, 16 bits, profiles, WebP), the resizing, and ONNX
Runtime. The pictures are drawn from a seed; no training image is among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from gapgate.artifacts import write_json
from gapgate.data.formats import FORMATS
from gapgate.data.picture.colour import DISPLAY_P3, matrix_profile
from gapgate.data.transform import Transform
from gapgate.errors import ArtifactError, ImageError
from gapgate.onnx.classifier import Classifier, logit_scale

FOLDER = "golden"
LISTING = "golden.json"
_ORIENTATION_TAG = 0x0112
_ROTATED = 6
"""EXIF orientation "row 0 is the right side": a viewer turns the picture by 90 degrees clockwise."""


class Golden(BaseModel):
    """Entry of `golden.json`: one picture and its logits."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    file: str
    content_type: str
    logits: tuple[float, ...]
    """Logits (num_classes,), float32 values."""


_LISTING = TypeAdapter(tuple[Golden, ...])


def write_golden(folder: Path, transform: Transform, classifier: Classifier) -> None:
    """Write `golden/` into the package `folder`: the pictures, near the model's own size, and `golden.json`.

    Raises:
        ArtifactError: the model's logits are not finite.
        ImageError: `max_pixels` of the transform is too small for any picture.
    """
    target = folder / FOLDER
    target.mkdir()
    # The widest picture has 5/4 · side² pixels, which is below the limit for this side.
    for name, content in _files(min(transform.size_px, isqrt(transform.max_pixels // 2))):
        (target / name).write_bytes(content)
    names = list(_ENCODERS)
    # Decoded from the files just written, not from the pictures in memory: JPEG and WebP lose bits, and a server sees
    # only the files.
    images = np.stack([transform.decode(target / name) for name in names])  # (n, H, W, C) uint8
    logits = classifier.logits(images)  # (n, num_classes) float32
    if not np.isfinite(logits).all():
        raise ArtifactError("the model's logits for the golden images are not finite; train again")
    lines = [
        Golden(file=name, content_type=_CONTENT_TYPES[Path(name).suffix], logits=tuple(row))
        for name, row in zip(names, logits.tolist(), strict=True)
    ]
    write_json(target / LISTING, [line.model_dump(mode="json") for line in lines])


def check_golden(folder: Path, transform: Transform, classifier: Classifier, tolerance: float = 1e-4) -> None:
    """Run the golden images of the package `folder` in the way a server runs the image of a request.

    Raises:
        ArtifactError: there are no golden images, one cannot be decoded, or a logit differs from the stored one by
            more than `tolerance` times the scale of the stored ones (`logit_scale`); the message names the first such
            image.
    """
    lines = _read(folder / FOLDER / LISTING)
    images = np.stack([_decode(folder / FOLDER / line.file, transform) for line in lines])  # (n, H, W, C) uint8
    logits = classifier.logits(images)  # (n, num_classes) float32
    allowed = tolerance * max(logit_scale(np.array(line.logits)) for line in lines)
    for line, found in zip(lines, logits, strict=True):
        stored = np.array(line.logits, np.float32)  # (num_classes,)
        if stored.shape != found.shape:
            raise ArtifactError(
                f"golden image {line.file}: {stored.size} logits are stored and the model gives {found.size}; "
                "package the model again"
            )
        difference = float(np.abs(found - stored).max())
        if not difference <= allowed:  # true for NaN as well
            raise ArtifactError(
                f"golden image {line.file}: logits differ by {difference:.3g}, more than {allowed:.3g}; "
                "serve it with the versions in the package's requirements, or package the model again"
            )


def _read(path: Path) -> tuple[Golden, ...]:
    try:
        lines = _LISTING.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; package the model again") from None
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ArtifactError(f"{path} is not a list of golden images ({reason}); package the model again") from None
    if not lines:
        raise ArtifactError(f"{path} lists no images, so nothing is proven; package the model again")
    return lines


def _decode(path: Path, transform: Transform) -> NDArray[np.uint8]:
    try:
        return transform.decode(path)
    except ImageError as error:
        raise ArtifactError(f"golden image {path.name}: {error.reason}; package the model again") from None


def _files(side: int) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file.

    `side` is the shorter side in pixels; of `odd.png` it is about the longer side.
    """
    # `| 1` makes a size odd: padding and halving an odd side is where rounding differs.
    wide, odd = (side * 5 // 4, side), (side - 1 | 1, side * 5 // 8 | 1)
    for seed, (name, encode) in enumerate(_ENCODERS.items()):
        yield name, encode(_picture(*(odd if name == "odd.png" else wide), seed))


def _picture(width: int, height: int, seed: int) -> Image.Image:
    """Draw an RGB picture of smooth colours with an edge and a line in it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    draw.ellipse((width // 5, height // 4, width * 3 // 5, height * 3 // 4), fill=(240, 60, 20))
    draw.line((width // 2, 0, width - 1, height - 1), fill=(10, 250, 160), width=max(1, height // 12))
    return picture


def _png(picture: Image.Image) -> bytes:
    return _encoded(picture, "PNG")


def _palette_png(picture: Image.Image) -> bytes:
    """PNG file with a palette of 16 colours, one of which is transparent."""
    return _encoded(picture.quantize(16), "PNG", transparency=3)


def _alpha_png(picture: Image.Image) -> bytes:
    """PNG file with an alpha channel, transparent at the left and opaque at the right."""
    ramp = np.broadcast_to(np.linspace(0, 255, picture.width).astype(np.uint8), (picture.height, picture.width))
    picture.putalpha(Image.fromarray(ramp))
    return _encoded(picture, "PNG")


def _gray16_png(picture: Image.Image) -> bytes:
    """PNG file of 16-bit gray values over the whole of 0..65535."""
    # v·256 + 77 is a multiple of 257 for v = 77 alone, so the rounding of 16 to 8 bits counts.
    return _encoded(Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 256 + 77), "PNG")


def _turned_jpeg(picture: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[_ORIENTATION_TAG] = _ROTATED
    return _encoded(picture, "JPEG", quality=90, exif=exif)


def _cmyk_jpeg(picture: Image.Image) -> bytes:
    return _encoded(picture.convert("CMYK"), "JPEG", quality=90)


def _display_p3_jpeg(picture: Image.Image) -> bytes:
    """JPEG file with the colour profile of a phone."""
    return _encoded(picture, "JPEG", quality=90, icc_profile=matrix_profile(DISPLAY_P3, 2.2))


def _webp(picture: Image.Image) -> bytes:
    return _encoded(picture, "WEBP", quality=90)


def _encoded(picture: Image.Image, format: str, **options: Any) -> bytes:
    stream = BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


_ENCODERS: dict[str, Callable[[Image.Image], bytes]] = {
    "alpha.png": _alpha_png,
    "cmyk.jpg": _cmyk_jpeg,
    "display-p3.jpg": _display_p3_jpeg,
    "gray16.png": _gray16_png,
    "odd.png": _png,
    "orientation.jpg": _turned_jpeg,
    "palette.png": _palette_png,
    "picture.webp": _webp,
}
_CONTENT_TYPES = {suffix: form.media_type for form in FORMATS for suffix in form.suffixes}
