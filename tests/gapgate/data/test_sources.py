"""Class folders and tables, from real files."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gapgate.errors import DataError, ImageError


def write_image(path, value=0, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)


def pixels_of(source):
    reader = pickle.loads(pickle.dumps(source.reader))  # as a worker process gets it
    return [np.asarray(reader.read(record.locator, 1_000_000)) for record in source.records()]


# Class folders


def test_class_folders_are_read_in_the_order_of_names(data, opened):
    for name in ("dog/b.png", "dog/a.png", "cat/deep/er/c.png", "cat/a.png"):
        write_image(data / name)
    source = opened()
    assert source.class_names == ("cat", "dog")
    assert [(r.id, r.label, r.split) for r in source.records()] == [
        ("cat/a.png", 0, ""),
        ("cat/deep/er/c.png", 0, ""),
        ("dog/a.png", 1, ""),
        ("dog/b.png", 1, ""),
    ]
    assert all(pixels.shape == (4, 6) for pixels in pixels_of(source))


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_folders_named_after_splits_are_splits(data, opened, val):
    for split in ("train", val, "test"):
        for name in ("a", "b"):
            write_image(data / split / name / "1.png")
    source = opened()
    assert source.class_names == ("a", "b")
    splits = {record.id: record.split for record in source.records()}
    assert splits == {
        f"{s}/{c}/1.png": {"train": "train", "test": "test"}.get(s, "val") for s in ("train", val, "test") for c in "ab"
    }


def test_numbered_classes_are_in_the_order_of_numbers(data, opened):
    for name in ("10", "9", "2"):
        write_image(data / name / "a.png")
    assert opened().class_names == ("2", "9", "10")


def test_hidden_files_are_ignored_and_other_files_are_unreadable_images(data, opened):
    for name in ("a", "b"):
        write_image(data / name / "1.png")
    for name in (".DS_Store", "Thumbs.db", "notes.txt"):
        (data / "a" / name).write_bytes(b"x")
    (data / "README.md").write_text("about")
    source = opened()
    assert [record.id for record in source.records()] == ["a/1.png", "a/notes.txt", "b/1.png"]
    with pytest.raises(ImageError, match="not an image"):
        source.reader.read("a/notes.txt", 100)


def test_images_beside_the_class_folders_have_no_label(data, opened):
    for name in ("a/1.png", "b/1.png", "stray.jpg", "stray.png"):
        write_image(data / name)
    with pytest.raises(DataError, match=r"2 images without a label in .*, such as stray\.jpg; move"):
        opened()


def test_one_class_is_too_few(data, opened):
    write_image(data / "only" / "1.png")
    with pytest.raises(DataError, match=r"one class only \(only\)"):
        opened()


def test_a_folder_that_is_not_there_or_empty_is_refused(data, opened):
    with pytest.raises(DataError, match="is empty; put the images in one folder for each class"):
        opened()
    with pytest.raises(DataError, match="does not exist"):
        opened(data / "nothing")
    (data / "notes.doc").write_text("x")
    with pytest.raises(DataError, match="of no known format"):
        opened(data / "notes.doc")
    with pytest.raises(DataError, match="empty or of no known format"):
        opened()


# Tables


def write_table(path, columns):
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    else:
        rows = zip(*columns.values(), strict=True)
        path.write_text(
            "\n".join(",".join(map(str, row)) for row in [columns.keys(), *rows]) + "\n", encoding="utf-8-sig"
        )


@pytest.fixture
def photos(data):
    for number in range(4):
        write_image(data / "photos" / f"{number}.png", value=number)
    return [f"photos/{number}.png" for number in range(4)]


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
@pytest.mark.parametrize("path_column", ["path", "FILE", "filename", "image"])
def test_a_table_gives_labels_groups_splits_and_ids(data, opened, photos, name, path_column):
    write_table(
        data / name,
        {
            path_column: photos,
            "class": ["x", "y", "x", "y"],
            "group": [7, 7, 8, 8],
            "split": ["train", "test", "valid", "test"],
            "id": list("abcd"),
        },
    )
    for path in (data, data / name):
        source = opened(path)
        assert source.class_names == ("x", "y")
        assert [tuple(record) for record in source.records()] == [
            ("a", 0, "train", "7", "photos/0.png"),
            ("b", 1, "test", "7", "photos/1.png"),
            ("c", 0, "val", "8", "photos/2.png"),
            ("d", 1, "test", "8", "photos/3.png"),
        ]
        assert [int(pixels[0, 0]) for pixels in pixels_of(source)] == [0, 1, 2, 3]


def test_a_table_of_paths_and_labels_is_enough(data, opened, photos):
    write_table(data / "labels.csv", {"path": [f"./{photo}" for photo in photos], "label": [10, 2, 10, 2]})
    source = opened()
    assert source.class_names == ("2", "10")
    assert [(r.id, r.label, r.split, r.group) for r in source.records()] == [
        (photo, label, "", "") for photo, label in zip(photos, (1, 0, 1, 0), strict=True)
    ]


def test_labels_without_files_are_counted(data, opened, photos):
    write_table(data / "t.csv", {"path": [*photos, "photos/gone.png", "photos/lost.png"], "label": list("abcdef")})
    with pytest.raises(DataError, match=r"2 labels without a file, first photos/gone\.png"):
        opened()


def test_files_without_labels_are_counted(data, opened, photos):
    write_table(data / "t.csv", {"path": photos[:2], "label": ["a", "b"]})
    with pytest.raises(DataError, match=r"2 files without a label, first photos/2\.png"):
        opened()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["photos/0.png"], "split": ["train"]}, "has no column label; call it one of label, class"),
        ({"label": ["a"], "x": ["photos/0.png"]}, "has no column path"),
        ({"path": ["photos/0.png"], "label": [""]}, "row 1 has no label"),
        (
            {"path": ["photos/0.png"], "label": ["a"], "split": ["dev"]},
            "row 1: split 'dev' is unknown; use train, val or test",
        ),
        ({"path": ["../secret.png"], "label": ["a"]}, "lies outside the table's folder"),
        ({"path": ["/etc/passwd"], "label": ["a"]}, "lies outside the table's folder"),
    ],
)
def test_a_table_that_cannot_be_used_is_explained(data, opened, photos, columns, message):
    write_table(data / "t.csv", columns)
    with pytest.raises(DataError, match=message):
        opened(data / "t.csv")


def test_a_file_that_is_no_table_is_explained(data, opened):
    (data / "t.parquet").write_bytes(b"PAR2")
    with pytest.raises(DataError, match="is not a Parquet file"):
        opened(data / "t.parquet")
    (data / "t.csv").write_bytes(b"path,label\n\xff\xfe\xfa,a\n")
    with pytest.raises(DataError, match="is not a CSV file in UTF-8"):
        opened(data / "t.csv")


def test_two_tables_in_a_folder_need_a_choice(data, opened, photos):
    for name in ("a.csv", "b.csv"):
        write_table(data / name, {"path": photos, "label": list("abab")})
    with pytest.raises(DataError, match=r"2 data sets \(a\.csv, b\.csv\); name one"):
        opened()
