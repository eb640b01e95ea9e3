"""What `auto` takes a data set for: decided by images from all of its places."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from gapgate.data.depth import dark_colours
from gapgate.data.preprocess import preprocess
from gapgate.data.probe import PROBED_IMAGES, _darkness, _Probe
from gapgate.data.transform import Transform
from gapgate.errors import DataError
from gapgate.settings.sections import PreprocessSettings


@pytest.fixture
def folder(tmp_path):
    """Writes `count` different images of a shape and kind as a class; answers the Splits of all with `preprocessed`."""

    class Folder:
        path = tmp_path / "data"

        def add(self, label, count, shape):
            place = self.path / label
            place.mkdir(parents=True, exist_ok=True)
            draw = np.random.default_rng(len(label) + count)
            for number in range(count):
                Image.fromarray(draw.integers(0, 256, shape, np.uint8)).save(place / f"{number}.png")

        def preprocessed(self, **options):
            out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
            out.mkdir()
            return preprocess(PreprocessSettings(**options), self.path, out)

    return Folder()


def test_colour_and_size_of_the_last_class_count(folder):
    folder.add("a_scans", PROBED_IMAGES + 14, (16, 16))
    folder.add("b_photos", 60, (40, 40, 3))
    assert folder.preprocessed().image_shape == (16, 16, 3)


def test_images_that_were_set_aside_are_named_where_too_few_are_left(folder):
    for label in "abc":
        folder.add(label, 4, (16, 16))  # all the same ones
    with pytest.raises(DataError, match=r"no image is left .*; 9 were set aside as copies, first a/1\.png \(same pix"):
        folder.preprocessed()


def png_of_16_bits(pixels):
    """A colour PNG file of 16 bits, (H, W, 3 or 4), which Pillow cannot write (ISO/IEC 15948, sections 5 and 11)."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("bits", "is_said"), [(12, True), (16, False)])
def test_colour_files_of_16_bits_that_hold_fewer_are_said(folder, bits, is_said):
    draw = np.random.default_rng(0)
    for label in "ab":
        folder.add(label, 8, (16, 16, 3))
        for number in range(8):
            pixels = draw.integers(0, 2**bits, (16, 16, 3))
            (folder.path / label / f"{number}.png").write_bytes(png_of_16_bits(pixels))
    notes = folder.preprocessed().info["notes"]
    assert any("16-bit colour PNG files" in note and "save them scaled to 16 bits" in note for note in notes) == is_said


def test_an_opaque_image_is_as_dark_as_its_colours():
    pixels = np.random.default_rng(0).integers(0, 2**12, (8, 8, 4))
    pixels[..., 3] = 65_535
    assert "no more than 16 of 256 levels" in dark_colours([lambda: png_of_16_bits(pixels)], 100)
    pixels[0, 0, 1] = 65_535
    assert dark_colours([lambda: png_of_16_bits(pixels)], 100) == ""


def drawings(folder, colour, num_opaque=0):
    """Write drawings of one colour on a transparent background, and photos without any."""
    for number in range(24):
        place = folder.path / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        alpha = np.random.default_rng(number).integers(0, 2, (16, 16), np.uint8) * 255
        pixels = np.dstack([np.full((16, 16, 3), colour, np.uint8), alpha])
        pixels[-1, -1, 3] = 0
        if number < num_opaque:
            pixels[..., 3] = 255
        Image.fromarray(pixels).save(place / f"{number}.png")


@pytest.mark.parametrize(
    ("colour", "num_opaque", "fill"), [(20, 0, 255), (20, 8, 255), (20, 16, 0), (235, 0, 0), (128, 0, 0)]
)
def test_dark_drawings_on_transparent_are_put_on_white(folder, colour, num_opaque, fill):
    drawings(folder, colour, num_opaque)
    splits = folder.preprocessed()
    transform = Transform.from_file(splits.path / "transform.json")
    assert transform.fill == fill
    assert any("put on white" in note for note in splits.info["notes"]) == bool(fill)
    # The service decodes by the same file.
    assert (transform.decode(folder.path / "a" / "22.png")[-1, -1] == fill).all()
    assert not [note for note in splits.info["notes"] if "plain colour" in note and not num_opaque]


def test_a_light_drawing_among_dark_ones_leaves_it_open(folder):
    drawings(folder, 20)
    light = np.full((16, 16, 4), 255, np.uint8)
    light[:8, :, 3] = 0
    Image.fromarray(light).save(folder.path / "a" / "light.png")
    assert Transform.from_file(folder.preprocessed().path / "transform.json").fill == 0


@pytest.mark.parametrize("fill", [0, 255])
def test_a_fill_that_is_named_is_kept_without_a_note(folder, fill):
    drawings(folder, 20)
    splits = folder.preprocessed(fill=fill)
    assert Transform.from_file(splits.path / "transform.json").fill == fill
    assert not [note for note in splits.info["notes"] if "put on white" in note]


@pytest.mark.parametrize(
    ("short_px", "num_images", "size_px"), [(160, 2000, 224), (160, 2001, 128), (159, 10, 128), (900, 2001, 128)]
)
def test_a_pretrained_network_gets_large_images_where_they_are_detailed_and_not_too_many(short_px, num_images, size_px):
    seen = _Probe(shared_px=None, short_px=short_px, long_px=1000, is_gray=False, fill=0)
    assert seen.pretrained_px(num_images) == size_px


@pytest.mark.parametrize(("colour", "is_dark"), [((20, 20, 20), True), ((220, 20, 20), False), ((20, 20, 220), False)])
def test_a_pixel_is_dark_where_all_of_its_channels_are(colour, is_dark):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, :3], pixels[:2, :, 3] = colour, 255  # the lower half is transparent
    assert _darkness(pixels) == float(is_dark)
    pixels[..., 3] = 255
    assert _darkness(pixels) is None
