"""Images that are in no split are counted, listed with their reasons and shown."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from gapgate.data import set_aside
from gapgate.data.decoding import Decoded
from gapgate.data.image_table import Index
from gapgate.data.preprocess import preprocess
from gapgate.data.sources import Record
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


@pytest.fixture
def index(tmp_path):
    """A table whose ids are not in the order of their rows: row 0 is a copy, 1 and 3 were not read, 2 is in a split."""
    opened = Index(tmp_path / "index.sqlite")
    opened.fill(Record(name, row % 2, "", "", "") for row, name in enumerate("dcba"))
    opened.store(
        Decoded(row, None, None, None, (), (), "truncated") if row % 2 else Decoded(row, "h", 8, 8, (1,), (1,), "")
        for row in range(4)
    )
    opened.execute("UPDATE images SET split = 'duplicate', reason = 'same pixels as b' WHERE row = 0")
    opened.execute("UPDATE images SET split = 'train' WHERE row = 2")
    np.save(tmp_path / "images.npy", np.zeros((4, 8, 8, 1), np.uint8))
    yield opened
    opened.close()


@pytest.mark.parametrize("max_rows", [2, 3, 4, 9])
def test_all_are_counted_and_the_first_are_listed_in_the_order_of_the_source(index, tmp_path, monkeypatch, max_rows):
    monkeypatch.setattr(set_aside, "MAX_ROWS", max_rows)
    left_out = [{"name": "z", "reason": "a link"}]
    assert set_aside.write_set_aside(tmp_path, index, ("ant", "bee"), left_out) == {"cannot be used": 3, "copy": 1}
    rows = [
        ["z", "", "cannot be used", "a link"],
        ["d", "ant", "copy", "same pixels as b"],
        ["c", "bee", "cannot be used", "truncated"],
        ["a", "bee", "cannot be used", "truncated"],
    ]
    assert json.loads((tmp_path / set_aside.TABLE).read_text())["data"] == rows[:max_rows]


def test_images_with_pixels_alone_are_drawn_and_that_of_the_first_row_is_one(index, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(set_aside, "save_sheets", lambda draw, path: drawn.extend(draw.args[0]))
    set_aside.write_set_aside(tmp_path, index, ("ant", "bee"), [])
    assert [each.image for each in drawn] == ["d"]
