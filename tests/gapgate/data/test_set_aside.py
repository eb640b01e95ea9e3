"""Images that are in no split are counted, listed with their reasons and shown."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from gapgate.data import set_aside
from gapgate.data.preprocess import preprocess
from gapgate.errors import DataError
from gapgate.settings.sections import PreprocessSettings


@pytest.fixture
def photos(tmp_path):
    """Twenty images of two classes, one unreadable file, one copy, and one picture under both labels."""
    root = tmp_path / "photos"
    for number in range(20):
        path = root / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    (root / "a" / "broken.png").write_bytes(b"no image")
    shutil.copy(root / "a" / "00.png", root / "a" / "copy.png")
    shutil.copy(root / "a" / "02.png", root / "b" / "conflict.png")
    return root


@pytest.fixture
def run(tmp_path):
    def make(source, left_out=(), **settings):
        folder = tmp_path / "splits"
        folder.mkdir()
        settings = PreprocessSettings(stratify=True, val_fraction=0.2, salt="2", **settings)
        return preprocess(settings, source, folder, left_out=left_out)

    return make


def test_each_is_listed_with_its_reason_and_shown(photos, run):
    splits = run(photos, [{"name": "a/dead.png", "reason": "a link to nothing; remove it"}])
    table = json.loads((splits.path / set_aside.TABLE).read_text())
    assert table["columns"] == ["image", "class", "set aside as", "reason"]
    listed = {row[0]: row[1:] for row in table["data"]}
    assert listed["a/dead.png"] == ["", "cannot be used", "a link to nothing; remove it"]
    assert listed["a/broken.png"][:2] == ["a", "cannot be used"]
    assert listed["a/copy.png"] == ["a", "copy", "same pixels as a/00.png"]
    assert listed["b/conflict.png"][:2] == ["b", "label conflict"]
    assert splits.info["set_aside"] == {"cannot be used": 2, "copy": 1, "label conflict": 2}
    words = set_aside.in_words(splits.info["set_aside"])
    assert words == "5 set aside (2 cannot be used, 1 copy, 2 label conflicts)"
    assert set_aside.read(splits.path, max_rows=1) == {"num_images": 5, "rows": table["data"][:1]}
    for name in (set_aside.PICTURE, f"dark/{set_aside.PICTURE}"):
        with Image.open(splits.path / name) as sheet:
            assert sheet.height == pytest.approx(3 * 70, abs=30)


def test_files_that_ingest_left_out_count_as_rejects(photos, run):
    left_out = [{"name": f"a/{number}.png", "reason": "a link to nothing"} for number in range(3)]
    with pytest.raises(DataError, match=r"4 images cannot be used, preprocess\.max_rejects=3: a/0\.png \(a link"):
        run(photos, left_out, max_rejects=3)


def test_nothing_is_written_where_all_images_are_in_a_split(photos, run):
    for name in ("a/broken.png", "a/copy.png", "b/conflict.png"):
        (photos / name).unlink()
    splits = run(photos)
    assert not list(splits.path.glob("set_aside*"))
    assert set_aside.read(splits.path) == {"num_images": 0, "rows": []}
    assert set_aside.in_words(splits.info["set_aside"]) == ""
