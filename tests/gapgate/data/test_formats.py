from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gapgate.data.formats import FORMATS, Format, format_of
from gapgate.data.picture.opening import has_heic


@pytest.fixture(scope="module", autouse=True)
def heic() -> None:
    if not has_heic():
        pytest.skip("pillow-heif (gapgate[heic]) is not installed")


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_format_has_the_name_and_the_suffixes_that_pillow_gives_it(form: Format) -> None:
    extensions = Image.registered_extensions()
    assert {extensions[suffix] for suffix in form.suffixes} == {form.pillow}


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_format_has_its_registered_media_type(form: Format) -> None:
    Image.init()
    assert Image.MIME[form.pillow] in (form.media_type, *form.other_media_types)


def test_no_suffix_and_no_media_type_stands_for_two_formats() -> None:
    suffixes = [suffix for form in FORMATS for suffix in form.suffixes]
    types = [name for form in FORMATS for name in (form.media_type, *form.other_media_types)]
    assert len(suffixes) == len(set(suffixes))
    assert len(types) == len(set(types))


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_file_is_known_by_its_first_bytes_and_by_no_fewer_than_three(form: Format, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    Image.effect_noise((40, 30), 60).convert("RGB").save(path, form.pillow)
    data = path.read_bytes()
    assert format_of(data) is form
    assert format_of(data[:2]) is None


def test_numbers_are_no_file() -> None:
    rng = np.random.default_rng(0)
    assert not any(format_of(rng.integers(0, 256, 64, np.uint8).tobytes()) for _ in range(20_000))
    for start in (b"BM", b"P5", b"P6 ", b"II", b"MM", b"RIFF", b"GIF", b"\0\0\0\x20ftyp"):
        assert format_of(start + bytes(60)) is None
