"""Files of a Splits artifact from a table of images that is known row by row."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from gapgate.data import splits_files
from gapgate.data.decoding import Decoded
from gapgate.data.formats import FORMATS, MAX_PIXELS
from gapgate.data.image_table import Index
from gapgate.data.leaks.bonds import MAX_COMPARED, Bonds
from gapgate.data.sources import Record
from gapgate.data.transform import Transform

SIZE_PX = 8
PLAIN = {"mode": "rgb", "size_px": SIZE_PX}


def plain(*levels):
    """Sums and sums of squares of an image whose channels have these levels."""
    return {
        "sums": tuple(SIZE_PX**2 * level for level in levels),
        "squares": tuple(SIZE_PX**2 * level**2 for level in levels),
    }


@pytest.fixture
def table(tmp_path):
    """Fills a table with rows; each is a dict of what differs from a gray training image of 8 × 8 pixels."""
    opened = []

    def made(*rows):
        index = Index(tmp_path / f"{len(opened)}.sqlite")
        opened.append(index)
        given = {"label": 0, "split": "train", "group": "", "bond": None, "form": "PNG", "reason": "", "hash": "h"}
        rows = [given | {"id": f"image {n}", "size": (8, 8)} | plain(100) | row for n, row in enumerate(rows)]
        index.fill(Record(row["id"], row["label"], "", row["group"], "") for row in rows)
        index.store(
            Decoded(n, row["hash"], *row["size"], row["sums"], row["squares"], row["reason"], row["form"])
            for n, row in enumerate(rows)
        )
        for n, row in enumerate(rows):
            index.execute("UPDATE images SET split = ?, bond = ? WHERE row = ?", row["split"], row["bond"], n)
        return index

    yield made
    for index in opened:
        index.close()


def test_mean_and_std_are_of_training_images_alone_and_a_constant_channel_has_std_1(table):
    index = table(
        plain(10, 51, 0),
        plain(30, 51, 0),
        *(plain(255, 255, 255) | {"split": split} for split in ("val", "test", "duplicate", "quarantined")),
    )
    mean, std = splits_files._mean_and_std(index, Transform(**PLAIN))
    # Of the levels 10 and 30: mean 20, standard deviation 10.
    assert mean == (round(20 / 255, 6), 0.2, 0.0)
    assert std == (round(10 / 255, 6), 1.0, 1.0)


def test_images_that_are_larger_than_the_service_takes_are_counted_from_the_first_pixel_too_many(table):
    side = {"size": (MAX_PIXELS, 1)}
    over = {"size": (1, MAX_PIXELS + 1)}
    assert list(splits_files._not_served(table(side, over | {"split": "duplicate"}))) == []
    (said,) = splits_files._not_served(table(side, over, over | {"split": "test"}, over | {"split": "quarantined"}))
    assert said.startswith(f"2 images have more than {MAX_PIXELS:,} pixels, which `gapgate serve` refuses")


def test_only_formats_that_the_service_refuses_are_named(table):
    rows = [{"form": form.pillow} for form in FORMATS] + [{"form": FORMATS[-1].pillow, "split": "duplicate"}]
    refused = [form for form in FORMATS if not form.is_served]
    assert 0 < len(refused) < len(FORMATS)
    assert [said.split(",")[0] for said in splits_files._not_served(table(*rows))] == [
        f"1 images are {form.name} files" for form in refused
    ]


@pytest.mark.parametrize(("fill", "words", "remedy"), [(0, "black", 255), (127, "black", 255), (128, "white", 0)])
def test_an_image_is_called_plain_where_all_of_its_channels_are(table, fill, words, remedy):
    noisy = {"sums": (6400, 6400, 6400), "squares": (640_000, 640_000, 640_001)}
    transform = Transform(**PLAIN, fill=fill)
    assert list(splits_files._invisible(table(noisy, plain(1, 2, 3) | {"split": "duplicate"}), transform)) == []
    (said,) = splits_files._invisible(table(noisy, plain(1, 2, 3), plain(0, 0, 0)), transform)
    assert said == (
        f"2 images, such as image 1, are one plain colour after the transform; if they are drawn in {words} on a "
        f"transparent background, set preprocess.fill={remedy}"
    )


def test_classes_without_images_are_told_of_given_splits_and_of_what_they_leave_to_train_on():
    names = [f"c{n}" for n in range(8)]
    counts = {"train": [0] * 6 + [1, 1], "val": [0] + [1] * 7, "test": [1] * 8}
    assert list(splits_files._not_everywhere(names, (), counts)) == []
    assert list(splits_files._not_everywhere(names, ("test", "train", "val"), counts)) == [
        "train has no images of 6 classes, which the model never learns: c0, c1, c2, c3, c4, …",
        "val has no images of 1 class, which the choice of the epoch leaves out: c0",
    ]
    assert len(list(splits_files._not_everywhere(names, ("test",), counts))) == 1


@pytest.mark.parametrize(("near_pairs", "num_images", "is_said"), [(0, 1, 0), (None, 0, 0), (None, 1, 1)])
def test_near_duplicates_that_were_not_looked_for_are_told_where_there_are_too_many_images(
    near_pairs, num_images, is_said
):
    counts = {"train": MAX_COMPARED, "test": num_images}
    assert len(splits_files._not_compared(Bonds(0, 0, near_pairs), counts)) == is_said


def test_the_index_has_a_line_for_each_image_with_the_group_that_it_was_split_by(table, tmp_path):
    index = table(
        {"bond": "group patient 7", "group": "patient 7"},
        {"bond": "series cat/a_", "label": 3, "split": "val"},
        {"group": "group of ten", "split": "duplicate", "reason": "same pixels as image 0"},
        {"hash": None, "size": (None, None), "split": "quarantined", "reason": "truncated", "id": "größer"},
    )
    splits_files._write_index(tmp_path / "index.parquet", index)
    lines = pq.read_table(tmp_path / "index.parquet").to_pylist()
    columns = ("row", "id", "label", "split", "group", "content_hash", "width", "height", "reason")
    assert [tuple(line[name] for name in columns) for line in lines] == [
        (0, "image 0", 0, "train", "patient 7", "h", 8, 8, ""),
        (1, "image 1", 3, "val", "series cat/a_", "h", 8, 8, ""),
        (2, "image 2", 0, "duplicate", "group of ten", "h", 8, 8, "same pixels as image 0"),
        (3, "größer", 0, "quarantined", "", "", 0, 0, "truncated"),
    ]


def test_images_left_out_are_listed_in_the_order_of_the_source(table, monkeypatch):
    monkeypatch.setattr(splits_files, "LISTED_IMAGES", 2)
    index = table(*({"id": name, "split": "duplicate", "reason": f"like {name}"} for name in "cab"), {"split": "test"})
    assert splits_files._listed(index, "duplicate") == [
        {"name": "c", "reason": "like c"},
        {"name": "a", "reason": "like a"},
    ]
    assert splits_files._listed(index, "quarantined") == []


def test_the_contact_sheet_has_training_images_of_lowest_hash_and_the_largest_groups(table, tmp_path, monkeypatch):
    monkeypatch.setattr(splits_files, "SHEET_IMAGES", 2)
    monkeypatch.setattr(splits_files, "SHEET_GROUPS", 3)
    rows = [
        {"hash": "c", "label": 1},
        {"hash": "a", "label": 1, "split": "val"},
        {"hash": "d", "label": 1, "bond": "series x"},
        {"hash": "b", "label": 1, "bond": "series x"},
        {"hash": "e", "bond": "series z", "split": "test"},
        {"hash": "f", "bond": "series z", "split": "test", "id": "cat/5.png"},
        {"hash": "g", "bond": "series z", "split": "test"},
        {"hash": "h", "bond": "series alone"},
        {"hash": "i", "bond": "series another"},
        {"hash": "j"},
    ]
    np.save(tmp_path / "images.npy", np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 1), "u1"))
    shown = []
    monkeypatch.setattr(splits_files, "contact_sheet", lambda samples: None)
    monkeypatch.setattr(splits_files, "save_sheets", lambda draw, path: shown.extend([*draw.args[0], path]))
    counts = {"train": [3, 3], "val": [0, 1], "test": [3, 0]}
    splits_files._write_sheet(tmp_path, table(*rows), ("ant", "bee"), counts)
    *samples, path = shown
    assert path == tmp_path / "contact_sheet.png"
    assert [(one.name, dict(one.counts), [int(image[0, 0, 0]) for image in one.images]) for one in samples] == [
        ("ant", {"train": 3, "val": 0, "test": 3}, [7, 8]),
        ("bee", {"train": 3, "val": 1, "test": 0}, [3, 0]),
        ("group: image 4 …", {"test": 3}, [4, 5]),
        ("group: image 2 …", {"train": 2}, [2, 3]),
    ]
