"""Near-duplicates that stay in the splits are counted, listed and shown."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gapgate.data.image_table import Index
from gapgate.data.leaks import alike
from gapgate.data.preprocess import preprocess
from gapgate.data.sources import Record
from gapgate.settings.sections import PreprocessSettings


def pixels(seed):
    return np.random.default_rng(seed).integers(40, 200, (32, 32, 3)).astype(np.uint8)


@pytest.fixture
def photos(tmp_path):
    """Twenty different photos of two classes."""
    root = tmp_path / "photos"
    for number in range(20):
        path = root / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(number)).save(path)
    return root


def splits_of(photos, tmp_path, **settings):
    folder = tmp_path / f"splits-{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    return preprocess(PreprocessSettings(**settings), photos, folder)


def test_sets_are_listed_with_those_of_two_classes_first(photos, tmp_path):
    for name, seed in (("a/bright.png", 2), ("a/brighter.png", 2), ("b/other.png", 4)):
        Image.fromarray(pixels(seed) + np.uint8(5 + len(name))).save(photos / name)
    splits = splits_of(photos, tmp_path)
    found = alike.read(splits.path, max_rows=3)
    assert {name: found[name] for name in found if name != "rows"} == {
        "num_images": 5,
        "num_sets": 2,
        "num_mixed_sets": 1,
    }
    assert [row[:3] for row in found["rows"]] == [[1, "a/04.png", "a"], [1, "b/other.png", "b"], [2, "a/02.png", "a"]]
    table = json.loads((splits.path / alike.TABLE).read_text())
    assert table["columns"] == ["set", "image", "class", "split"]
    assert {row[1] for row in table["data"] if row[0] == 2} == {"a/02.png", "a/bright.png", "a/brighter.png"}
    assert len({row[3] for row in table["data"] if row[0] == 2}) == 1  # a set stays in one split
    for name in (alike.PICTURE, f"dark/{alike.PICTURE}"):
        with Image.open(splits.path / name) as sheet:
            assert sheet.height == pytest.approx(2 * 70, abs=30)
            tile = np.asarray(sheet.convert("RGB"))[12:76, 12:76]
        assert np.abs(tile.astype(int).mean() - splits.images[4].mean()) < 20


def test_what_was_taken_out_for_a_given_test_split_is_no_longer_beside_it(photos, tmp_path):
    for number in range(10):
        for label in "ab":
            for split, bright in (("train", 0), ("test", 9)):
                path = tmp_path / "given" / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                seed = 100 * (label == "b") + number + (0 if number < 2 else 1000 * bright)
                Image.fromarray(pixels(seed) + np.uint8(bright)).save(path)
    splits = splits_of(tmp_path / "given", tmp_path)
    assert splits.info["duplicates"]["near_across_splits"] == 4
    assert alike.read(splits.path) == {"num_images": 0, "num_sets": 0, "num_mixed_sets": 0, "rows": []}
    assert not list(splits.path.glob("near_duplicates*"))


def test_nothing_is_written_where_they_are_not_looked_for(photos, tmp_path):
    Image.fromarray(pixels(2) + np.uint8(9)).save(photos / "a" / "bright.png")
    splits = splits_of(photos, tmp_path, groups="none")
    assert alike.read(splits.path)["num_sets"] == 0


def test_a_class_that_a_given_split_lacks_is_named(tmp_path):
    for split, classes in (("train", "abc"), ("val", "abc"), ("test", "abd")):
        for label in classes:
            for number in range(4):
                path = tmp_path / "given" / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels(ord(label) * 1000 + ord(split[1]) * 10 + number)).save(path)
    notes = splits_of(tmp_path / "given", tmp_path).info["notes"]
    assert notes == [
        "train has no images of 1 class, which the model never learns: d",
        "test has no images of 1 class, which nothing measures: c",
        "val has no images of 1 class, which the choice of the epoch leaves out: d",
    ]


def test_patients_whose_images_look_alike_are_not_all_one_group(tmp_path):
    table = ["path,label,group"]
    for number in range(24):
        path = tmp_path / "photos" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        # Each picture of a patient is nearly one of the next patient.
        Image.fromarray(pixels(number // 2) + np.uint8(9 * (number % 2))).save(path)
        table.append(f"{number}.png,{'ab'[number % 2]},p{(number + 1) // 2}")
    (tmp_path / "photos" / "t.csv").write_text("\n".join(table))
    splits = splits_of(tmp_path / "photos", tmp_path)
    assert splits.info["counts"]["val"] > 0
    index = pq.read_table(splits.path / "index.parquet").to_pylist()
    assert {row["group"] for row in index} == {f"p{number}" for number in range(13)}


def test_sets_of_several_classes_come_first_then_the_largest_then_that_of_the_first_row(tmp_path):
    index = Index(tmp_path / "index.sqlite")
    labels = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1]
    index.fill(Record(f"i{row}", label, "", "", "") for row, label in enumerate(labels))
    index.execute("UPDATE images SET split = 'train'")
    index.execute("UPDATE images SET split = 'duplicate' WHERE row = 9")
    # Tied: 0–1, 2–3–4, 5–6, 8–7 of two classes, 10–11; row 9 is in no split.
    pairs = [(0, 1), (2, 4), (3, 4), (5, 6), (7, 8), (10, 11), (0, 9)]
    index.insert_many("INSERT INTO near VALUES (?, ?)", [*pairs, *((other, one) for one, other in pairs)])
    np.save(tmp_path / "images.npy", np.zeros((12, 8, 8, 1), np.uint8))
    counts = alike.write_alike(tmp_path, index, ("ant", "bee"))
    index.close()
    assert counts == {"images": 11, "sets": 5, "mixed_sets": 1}
    rows = json.loads((tmp_path / alike.TABLE).read_text())["data"]
    assert [(number, name) for number, name, *_ in rows] == [
        (1, "i7"), (1, "i8"), (2, "i2"), (2, "i3"), (2, "i4"), (3, "i0"), (3, "i1"), (4, "i5"), (4, "i6"),
        (5, "i10"), (5, "i11"),
    ]  # fmt: skip
    assert rows[0][2:] == ["bee", "train"]
