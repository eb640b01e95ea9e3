"""Settings of a command with its source: a mistake is told before any step starts."""

import re

import pytest

from gapgate.errors import DataError
from pipelines.settings import settings_of, with_source


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "overrides", "message"),
    [
        ("photos", [], "no such folder or file: photos; name one"),
        (None, ["data.source=photos"], "no such folder or file: photos; name one"),
        ("https://a.example/photos.zip", [], "https://a.example/photos.zip is a URL; download the data"),
        ("/dev/null", [], "/dev/null is a pipe or a device"),
        (None, [], "data.dvc is not there; name a source, as `gapgate run FOLDER`, or pin one"),
        (None, ["data.path=photos"], "photos.dvc is not there; name a source"),
    ],
)
def test_a_source_that_is_not_there_is_told_at_once(source, overrides, message):
    with pytest.raises(DataError, match=re.escape(message)):
        with_source(settings_of(None, overrides), source)


def test_a_pin_that_is_no_dvc_file_is_told_at_once(place):
    (place / "data.dvc").write_text("outs: []\n")
    with pytest.raises(DataError, match=r"data\.dvc is not a DVC file"):
        with_source(settings_of(None, []), None)


@pytest.mark.parametrize(
    ("source", "overrides", "found"),
    [
        ("digits", [], "digits"),
        ("photos", [], "photos"),
        (None, ["data.source=photos"], "photos"),
        (None, ["data.path=photos"], ""),
        (None, ["data.path=pinned"], ""),
        (None, ["data.revision=v1"], ""),  # which git has, not the folder
        (None, ["data.repository=https://a.example/data.git"], ""),
    ],
)
def test_a_source_that_may_be_there_is_left_to_the_step(place, source, overrides, found):
    (place / "photos").mkdir()
    (place / "pinned.dvc").write_text("outs:\n- {md5: 0123.dir, path: pinned}\n")
    assert with_source(settings_of(None, overrides), source).data.source == found
