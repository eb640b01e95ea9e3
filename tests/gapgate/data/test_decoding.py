"""What two images must share to count as copies of each other, and the rows that decoding fills."""

import errno
import io
import os

import numpy as np
import pytest
from PIL import Image

from gapgate.data import decoding
from gapgate.data.decoding import Decoded, Decoder, content_hash, decode_all
from gapgate.data.picture.opening import load_image, read_header
from gapgate.data.transform import Transform
from gapgate.errors import ImageError, ImageFault

BYTES = np.arange(48, dtype=np.uint8)


def test_the_same_bytes_in_another_shape_are_another_image():
    shapes = [(2, 24), (24, 2), (6, 8), (8, 6), (4, 4, 3), (2, 8, 3), (8, 2, 3), (4, 6, 2), (6, 2, 4)]
    assert len({content_hash(BYTES.reshape(shape)) for shape in shapes}) == len(shapes)


def test_one_channel_as_a_third_axis_is_the_same_image():
    assert content_hash(BYTES.reshape(6, 8, 1)) == content_hash(BYTES.reshape(6, 8))


def test_one_changed_pixel_is_another_image():
    changed = BYTES.copy()
    changed[47] += 1
    assert content_hash(changed.reshape(6, 8)) != content_hash(BYTES.reshape(6, 8))


@pytest.mark.parametrize("shape", [(6, 8), (4, 4, 3), (3, 4, 4)])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_a_file_and_an_array_of_the_same_pixels_have_the_same_hash(shape, format):
    pixels = BYTES.reshape(shape)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    assert content_hash(load_image(read_header(file.getvalue(), max_pixels=100))) == content_hash(pixels)


def test_the_order_in_memory_does_not_matter():
    pixels = BYTES.reshape(4, 4, 3)
    assert content_hash(np.asfortranarray(pixels)) == content_hash(pixels)


def test_channel_sums_are_exact_for_bright_images_of_the_largest_size():
    for shape in ((8, 8, 1), (257, 257, 3), (512, 512, 3)):
        pixels = np.random.default_rng(0).integers(250, 256, shape, dtype=np.uint8)
        sums, squares = decoding.channel_sums(pixels)
        values = pixels.reshape(-1, shape[2]).astype(np.int64)
        assert list(sums) == values.sum(axis=0).tolist()
        assert list(squares) == (values**2).sum(axis=0).tolist()


class Stripes:
    """Reader of arrays of 9 × 12 pixels, whose level is the locator; a file for `file`, and no image for `none`."""

    def read(self, locator, max_pixels):
        if locator == "none":
            raise ImageError(ImageFault.TOO_MANY_PIXELS, "too large", "raise the limit")
        pixels = np.full((9, 12, 3), 7 if locator == "file" else int(locator) % 256, np.uint8)
        pixels[:, :6] += 1
        if locator != "file":
            return pixels
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return load_image(read_header(file.getvalue(), max_pixels=max_pixels))


TRANSFORM = Transform(size_px=8, mode="rgb", fit="crop")
HEADER_BYTES = 64


@pytest.fixture
def decoder(tmp_path):
    path = tmp_path / "images.npy"
    path.write_bytes(b"h" * HEADER_BYTES + bytes(300 * 192))
    return Decoder(Stripes(), TRANSFORM, path, HEADER_BYTES)


def rows_in(decoder):
    data = decoder.path.read_bytes()
    assert data[:HEADER_BYTES] == b"h" * HEADER_BYTES
    return np.frombuffer(data[HEADER_BYTES:], np.uint8).reshape(-1, 8, 8, 3)


def test_an_image_fills_its_own_row_and_its_figures_are_those_of_the_file_and_of_the_row(decoder):
    found = [each for chunk in decode_all(decoder, [(4, "20"), (1, "none"), (0, "file")], 3, 1) for each in chunk]
    filled = rows_in(decoder)
    assert [row for row in range(300) if filled[row].any()] == [0, 4]
    for row, locator in ((4, "20"), (0, "file")):
        stored = Stripes().read(locator, 1000)
        pixels = TRANSFORM.apply(np.asarray(stored))
        np.testing.assert_array_equal(filled[row], pixels)
        wide = pixels.reshape(-1, 3).astype(int)
        # Width and height as stored, and the hash of those pixels: no setting of the transform changes them.
        expected = (content_hash(stored), 12, 9, tuple(wide.sum(0)), tuple((wide**2).sum(0)), "")
        assert found[0 if row else 2] == (row, *expected, "PNG" if locator == "file" else "")
    remedy = "make it smaller, or raise preprocess.max_pixels"
    assert found[1] == Decoded(1, None, None, None, (), (), f"too large; {remedy}")


def test_workers_fill_the_same_rows_and_their_results_come_in_the_order_of_the_jobs(decoder, monkeypatch):
    monkeypatch.setattr(decoding, "MIN_IMAGES_FOR_WORKERS", 1)
    monkeypatch.setattr(decoding, "CHUNK_IMAGES", 16)
    # Else this process decodes all of so few images before the first worker has started.
    monkeypatch.setattr(decoding, "_decode_until_started", lambda *_: iter(()))
    jobs = [(row, str(row)) for row in range(300)]
    found = [each for chunk in decode_all(decoder, jobs, 300, 2) for each in chunk]
    assert [each.row for each in found] == list(range(300))
    decoder.open()
    assert found == decoder.decode(jobs)
    decoder.close()
    filled = rows_in(decoder)
    assert [int(image[0, -1, 0]) for image in filled] == [row % 256 for row in range(300)]


def test_what_is_decoded_before_the_workers_start_is_not_lost(decoder, monkeypatch):
    monkeypatch.setattr(decoding, "MIN_IMAGES_FOR_WORKERS", 1)
    found = [each.row for chunk in decode_all(decoder, ((row, "1") for row in range(300)), 300, 2) for each in chunk]
    assert found == list(range(300))


def test_a_row_that_the_disk_takes_half_of_is_a_full_disk(decoder, monkeypatch):
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: len(data) // 2)
    with pytest.raises(OSError, match="No space left") as raised:
        list(decode_all(decoder, [(0, "1")], 1, 1))
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(decoder.path))
