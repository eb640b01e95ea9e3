import pytest
from PIL import Image

from gapgate.data.formats import FORMATS, Format


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_format_has_the_name_and_the_suffixes_that_pillow_gives_it(form: Format) -> None:
    extensions = Image.registered_extensions()
    assert {extensions[suffix] for suffix in form.suffixes} == {form.name}


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_served_format_has_its_registered_media_type(form: Format) -> None:
    Image.init()
    assert Image.MIME[form.name] == form.media_type


def test_no_suffix_and_no_media_type_stands_for_two_formats() -> None:
    suffixes = [suffix for form in FORMATS for suffix in form.suffixes]
    types = [name for form in FORMATS for name in (form.media_type, *form.other_media_types)]
    assert len(suffixes) == len(set(suffixes))
    assert len(types) == len(set(types))
