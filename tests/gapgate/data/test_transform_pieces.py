"""A large image is converted piece by piece; the pixels are those of the whole image converted at once."""

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gapgate.data import transform
from gapgate.data.transform import Transform, on_background, open_image


def at_once(options: Transform, data: bytes) -> Image.Image:
    """The transform without padding, by Pillow's own `resize` with its `reducing_gap`."""
    image = on_background(open_image(data, max_pixels=10**6), options.fill)
    if options.mode == "gray":
        image = image.convert("L")
    width, height = image.size
    if options.fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    scale = options.size_px / max(image.size)
    inner = tuple(max(1, int(length * scale + 0.5)) for length in image.size)
    return image.resize(inner, Image.Resampling[options.resample.upper()], reducing_gap=2.0)


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(MODES),
    st.integers(1, 300),
    st.integers(1, 300),
    st.builds(
        Transform,
        size_px=st.sampled_from([8, 16, 32]),
        mode=st.sampled_from(["gray", "rgb"]),
        fit=st.sampled_from(["pad", "crop"]),
        fill=st.integers(0, 255),
        resample=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
    ),
    st.integers(1, 5_000),
    st.integers(1, 8),
)
def test_pieces_give_the_pixels_of_the_whole(mode, width, height, options, piece_pixels, orientation):
    values = np.random.default_rng(width * height).integers(0, 256, (height, width, 4), dtype=np.uint8)
    image = Image.fromarray(values)
    exif = Image.Exif()
    exif[0x0112] = orientation
    extra = {"transparency": bytes(range(0, 250, 5))} if mode == "P" else {}
    if mode == "I;16":
        image = Image.fromarray(values[:, :, 0].astype(np.uint16) * 200)
    elif mode == "P":
        image = image.convert("RGB").quantize(50)
    else:
        image = image.convert(mode)
    file = BytesIO()
    image.save(file, "TIFF" if mode == "CMYK" else "PNG", exif=exif, **extra)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transform, "PIECE_PIXELS", piece_pixels)
        result = options.decode(file.getvalue())
    expected = np.asarray(at_once(options, file.getvalue()))
    top, left = ((options.size_px - length) // 2 for length in expected.shape[:2])
    part = result[top : top + expected.shape[0], left : left + expected.shape[1]]
    shown = expected if expected.ndim == 3 else expected[:, :, np.newaxis]
    np.testing.assert_array_equal(part, np.broadcast_to(shown, part.shape))
