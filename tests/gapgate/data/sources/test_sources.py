"""Class folders and tables, from real files."""

import io
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gapgate.errors import DataError, ImageError
from gapgate.settings.sections import Reading


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
        (
            {"label": ["a"], "x": ["photos/0.png"]},
            r"has no column path; .* or name yours with --path-column \(its columns are label, x\)",
        ),
        ({"path": ["photos/0.png"], "label": [""]}, "row 1 has no label"),
        (
            {"path": ["photos/0.png"], "label": ["a"], "split": ["spare"]},
            "row 1: split 'spare' is unknown; use train, val or test",
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


# Tables as they are found


def write_text(path, separator, header, rows, encoding="utf-8"):
    lines = [separator.join(map(str, row)) for row in ([header, *rows] if header else rows)]
    path.write_text("\r\n".join(lines) + "\r\n", encoding=encoding)


def labels_of(source):
    return {record.locator: source.class_names[record.label] for record in source.records()}


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", ", "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_any_usual_separator_and_encoding_is_read(data, opened, photos, separator, encoding):
    write_text(data / "t.csv", separator, ["path", "label"], zip(photos, "abab", strict=True), encoding)
    assert labels_of(opened()) == dict(zip(photos, "abab", strict=True))


@pytest.mark.parametrize(("column", "is_offered"), [("patient_id", True), ("weight", False), ("group", False)])
def test_a_column_that_looks_like_groups_is_offered(data, opened, photos, column, is_offered):
    write_text(data / "t.csv", ",", ["path", "label", column], zip(photos, "abab", "1122", strict=True))
    said = "t.csv: call the column patient_id `group` if its images belong in one split"
    assert (said in opened().notes) == is_offered


@pytest.mark.parametrize(
    ("path", "label"),
    [("file_name", "labels"), ("Image ID", "target"), ("img_path", "Category"), ("id", "class"), ("FilePath", "y")],
)
def test_usual_names_of_columns_are_understood_and_said(data, opened, photos, path, label):
    write_text(data / "t.tsv", "\t", [path, label], zip(photos, "abab", strict=True))
    source = opened()
    assert labels_of(source) == dict(zip(photos, "abab", strict=True))
    assert source.notes == (f"t.tsv: path from {path}, label from {label}",)


def test_other_columns_are_named_by_the_user(data, opened, photos):
    write_text(data / "t.csv", ",", ["Photo Name", "what"], zip(photos, "abab", strict=True))
    for path, label in (("photo_name", "What"), ("1", "2")):
        assert opened(data, Reading(path_column=path, label_column=label)).class_names == ("a", "b")
    with pytest.raises(DataError, match=r"has no column where; it has Photo Name, what: name one with --label-column"):
        opened(data, Reading(path_column="photo name", label_column="where"))
    # The folder `photos` is no class, though no table was found.
    with pytest.raises(DataError, match=r"name yours with --path-column \(its columns are Photo Name, what\)"):
        opened()


def test_a_table_without_a_header_is_asked_about(data, opened, photos):
    write_text(data / "t.csv", ",", None, zip(photos, "abab", strict=True))
    with pytest.raises(DataError, match=r"has no header, its first row is photos/0\.png, a: .*--path-column 1"):
        opened(data / "t.csv")
    source = opened(data / "t.csv", Reading(path_column="1", label_column="2"))
    assert labels_of(source) == dict(zip(photos, "abab", strict=True))


@pytest.mark.parametrize("prefix", ["{data}/", "/content/drive/My Drive/", "C:\\Users\\me\\", "/"])
def test_absolute_paths_of_any_machine_are_found_inside(data, opened, photos, prefix):
    rows = [(prefix.format(data=data) + photo, label) for photo, label in zip(photos, "abab", strict=True)]
    write_text(data / "t.csv", ",", ["path", "label"], rows)
    assert list(labels_of(opened())) == photos


def test_a_path_of_another_folder_stays_outside(data, opened, photos):
    rows = [("/here/photos/0.png", "a"), ("/elsewhere/photos/1.png", "b")]
    write_text(data / "t.csv", ",", ["path", "label"], rows)
    with pytest.raises(DataError, match=r"row 2: /elsewhere/photos/1\.png lies outside the table's folder"):
        opened()


@pytest.mark.parametrize("cells", [["0", "1", "2", "3"], ["0.png", "1.png", "2.png", "3.png"]])
def test_a_bare_name_finds_its_file_and_extension(data, opened, photos, cells):
    write_text(data / "train.csv", ",", ["image_id", "label"], zip(cells, "abab", strict=True))
    source = opened()
    assert list(labels_of(source)) == photos
    assert "the files were found by their names" in source.notes
    write_image(data / "other" / "0.png")
    with pytest.raises(DataError, match=r"row 1: 0.* may be other/0\.png or photos/0\.png; write the folder"):
        opened()


def test_a_list_of_the_classes_is_no_table_of_images(data, opened):
    for name in ("cat", "dog"):
        write_image(data / name / "1.png")
    write_text(data / "classes.csv", ",", ["id", "class"], [("0", "cat"), ("1", "dog")])
    assert [record.id for record in opened().records()] == ["cat/1.png", "dog/1.png"]
    write_text(data / "labels.csv", ",", ["id", "class"], [("cat/1", "x"), ("dog/1", "y")])
    assert opened().class_names == ("x", "y")


def test_images_that_another_table_names_without_labels_are_left_out(data, opened, photos):
    write_text(data / "train.csv", ",", ["image_id", "label"], [("0", "a"), ("1", "b")])
    write_text(data / "test.csv", ",", ["image_id"], [("2",), ("3",)])
    write_text(data / "sample_submission.csv", ",", ["image_id", "label"], [("2", "a"), ("3", "a")])
    source = opened()
    assert list(labels_of(source)) == photos[:2]
    assert "2 images that test.csv names without labels are left out" in source.notes


@pytest.mark.parametrize(
    ("column", "values", "splits"),
    [
        ("subset", ["Training", "dev", "Test set", "train"], ["train", "val", "test", "train"]),
        ("fold", [1, 2, 3, 1], ["train", "val", "test", "train"]),
        ("is_valid", ["True", "False", "0", "1"], ["val", "train", "train", "val"]),
        ("is_train", ["1", "0", "1", "0"], ["train", "test", "train", "test"]),
    ],
)
def test_a_column_of_splits_is_understood(data, opened, photos, column, values, splits):
    write_text(data / "t.csv", ",", ["path", "label", column], zip(photos, "abab", values, strict=True))
    assert [record.split for record in opened().records()] == splits


def test_a_table_for_each_split_is_read(data, opened, photos):
    write_text(data / "train.csv", ",", ["path", "label"], zip(photos[:2], "ab", strict=True))
    write_text(data / "valid.csv", ",", ["path", "label"], zip(photos[2:], "ab", strict=True))
    assert [(record.locator, record.split) for record in opened().records()] == [
        *((photo, "train") for photo in photos[:2]),
        *((photo, "val") for photo in photos[2:]),
    ]


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_hugging_faces_folders_with_metadata_are_read(data, opened, name):
    for split in ("train", "test"):
        for number in range(2):
            write_image(data / split / f"{number}.png")
        rows = [(f"{number}.png", "ab"[number]) for number in range(2)]
        if name.endswith("csv"):
            write_text(data / split / name, ",", ["file_name", "label"], rows)
        else:
            lines = [json.dumps({"file_name": file, "label": label}) for file, label in rows]
            (data / split / name).write_text("\n".join(lines))
    assert [(record.id, record.label, record.split) for record in opened().records()] == [
        (f"{split}/{number}.png", number, split) for split in ("test", "train") for number in range(2)
    ]


def test_measurements_are_no_classes(data, opened, photos):
    write_text(data / "t.csv", ",", ["path", "target"], zip(photos, ["0.37", "1.5", "2", "0.38"], strict=True))
    with pytest.raises(DataError, match=r"target holds 4 different numbers, such as 0\.37, and no classes"):
        opened()
    write_text(data / "t.csv", ",", ["path", "target"], zip(photos, ["0.0", "1.0", "1.0", "0.0"], strict=True))
    assert opened().class_names == ("0", "1")


def test_a_missing_label_of_pandas_is_missing(data, opened, photos):
    write_table(data / "t.parquet", {"path": photos, "label": [0.0, float("nan"), 1.0, 1.0]})
    with pytest.raises(DataError, match="row 2 has no label"):
        opened()


# Images in Parquet


def write_parquet(path, values, labels, names=(), column="image"):
    images = []
    for value in values:
        data = io.BytesIO()
        Image.new("L", (6, 4), value).save(data, "PNG")
        images.append({"bytes": data.getvalue(), "path": None} if column == "image" else data.getvalue())
    table = pa.table({column: images, "label": labels})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def test_hugging_faces_parquet_files_are_read_with_names_and_splits(data, opened):
    names = ["cat", "dog"]
    write_parquet(data / "data" / "test-00000-of-00001.parquet", [0, 1], [0, 1], names)
    write_parquet(data / "data" / "train-00000-of-00002-a09b74b3ef9c3b56.parquet", [2, 3], [1, 0], names)
    write_parquet(data / "data" / "train-00001-of-00002-a09b74b3ef9c3b56.parquet", [4], [1], names)
    (data / "README.md").write_text("about")
    source = opened()
    assert source.class_names == ("cat", "dog")
    assert [(record.split, record.label) for record in source.records()] == [
        ("test", 0), ("test", 1), ("train", 1), ("train", 0), ("train", 1),
    ]  # fmt: skip
    assert [int(pixels[0, 0]) for pixels in pixels_of(source)] == [0, 1, 2, 3, 4]


def test_numbers_of_classes_whose_names_are_numbers_too_are_not_taken_for_those_names(data, opened):
    write_parquet(data / "set.parquet", [7, 8, 9, 10], [0, 1, 2, 1], ["1", "2", "3"])
    source = opened(data / "set.parquet")
    assert source.class_names == ("1", "2", "3")
    assert [record.label for record in source.records()] == [0, 1, 2, 1]


def test_names_and_measurements_in_parquet(data, opened):
    write_parquet(data / "set.parquet", [7, 8], [0, 1], ["cat", "dog"])
    assert opened(data / "set.parquet", Reading(class_names=("chat", "chien"))).class_names == ("chat", "chien")
    write_parquet(data / "set.parquet", [7, 8], [0.5, 1.25])
    with pytest.raises(DataError, match=r"label holds 2 different numbers, such as 0\.5, and no classes"):
        opened(data / "set.parquet")


@pytest.mark.parametrize("column", ["image", "img"])
def test_a_parquet_file_of_image_bytes_is_read(data, opened, column):
    write_parquet(data / "set.parquet", [7, 8], ["a", "b"], column=column)
    source = opened(data / "set.parquet")
    assert [(record.id, record.split) for record in source.records()] == [("set/000000", ""), ("set/000001", "")]
    assert [int(pixels[0, 0]) for pixels in pixels_of(source)] == [7, 8]


def test_groups_of_a_parquet_table_and_names_of_several(data, opened):
    write_parquet(data / "train.parquet", [1, 2], [0, 1], ["cat", "dog"])
    table = pq.read_table(data / "train.parquet").append_column("group", pa.array(["p1", "p2"]))
    pq.write_table(table, data / "train.parquet")
    write_parquet(data / "test.parquet", [3], [1], ["cat", "dog"])
    assert [(record.split, record.group) for record in opened().records()] == [
        ("test", ""), ("train", "p1"), ("train", "p2"),
    ]  # fmt: skip
    write_parquet(data / "test.parquet", [3], [1], ["dog", "cat"])
    with pytest.raises(DataError, match="name different classes; take files of one data set"):
        opened()


def test_images_of_a_table_are_in_the_order_of_its_rows_with_their_own_id_and_group(data, opened):
    for name in "abcd":
        Image.new("L", (6, 4)).save(data / f"{name}.png")
    (data / "t.csv").write_text("path,label,id,group\nd.png,x,4,g\na.png,y,1,\nc.png,x,3,g\nb.png,y,2,\n")
    assert [(record.id, record.locator, record.group) for record in opened(data / "t.csv").records()] == [
        ("4", "d.png", "g"), ("1", "a.png", ""), ("3", "c.png", "g"), ("2", "b.png", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("folds", "splits"),
    [
        (["0", "1"], ["train", "test"]),
        (["0", "1", "2"], ["train", "val", "test"]),
        # As numbers: 10 is the last one and 9 the one before it.
        ([str(number) for number in range(11)], ["train"] * 9 + ["val", "test"]),
    ],
)
def test_the_last_of_numbered_folds_tests_and_the_one_before_it_validates(data, opened, folds, splits):
    for number in range(len(folds)):
        Image.new("L", (6, 4)).save(data / f"{number}.png")
    rows = [f"{number}.png,{'ab'[number % 2]},{fold}" for number, fold in enumerate(folds)]
    (data / "t.csv").write_text("\n".join(["path,label,fold", *rows]))
    assert [record.split for record in opened(data / "t.csv").records()] == splits


@pytest.mark.parametrize(("count", "is_refused"), [(9, False), (10, True)])
def test_ten_labels_that_all_differ_are_no_classes(data, opened, count, is_refused):
    for number in range(count):
        Image.new("L", (6, 4)).save(data / f"{number}.png")
    (data / "t.csv").write_text("\n".join(["path,label", *(f"{n}.png,name {n}" for n in range(count))]))
    if not is_refused:
        assert len(opened(data / "t.csv").class_names) == count
        return
    with pytest.raises(DataError, match="has another value for each of the 10 images"):
        opened(data / "t.csv")


def test_labels_that_do_not_number_the_names_of_a_parquet_file_are_classes_themselves(data, opened):
    write_parquet(data / "set.parquet", [7, 8, 9], [0, 1, 2], ["cat", "dog"])
    source = opened(data / "set.parquet")
    assert source.class_names == ("0", "1", "2")
    assert [record.label for record in source.records()] == [0, 1, 2]


def test_a_row_of_a_parquet_file_without_an_image_says_so(data, opened):
    write_parquet(data / "set.parquet", [7, 8], [0, 1], column="picture")
    table = pq.read_table(data / "set.parquet").to_pydict()
    table["picture"][1] = None
    pq.write_table(pa.table(table), data / "set.parquet")
    source = opened(data / "set.parquet")
    first, second = source.records()
    assert source.reader.read(first.locator, 100).size == (6, 4)
    with pytest.raises(ImageError, match="the row holds no image"):
        source.reader.read(second.locator, 100)
