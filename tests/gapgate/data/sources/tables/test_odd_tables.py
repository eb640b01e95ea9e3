"""Tables as spreadsheets, Windows and other programs leave them: what is understood, and what is one clear line."""

import io
import unicodedata
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gapgate.errors import DataError


def png(value):
    data = io.BytesIO()
    Image.new("L", (6, 4), value).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def names(data):
    """Paths of four image files."""
    (data / "Photos").mkdir()
    found = [f"Photos/{number}.png" for number in range(4)]
    for number, name in enumerate(found):
        (data / name).write_bytes(png(number))
    return found


def labels_of(source):
    return {record.locator: source.class_names[record.label] for record in source.records()}


def lines(names, labels="abab"):
    return "".join(f"{name},{label}\n" for name, label in zip(names, labels, strict=True))


@pytest.mark.parametrize("first", ["sep=;\n", '"sep=;"\r\n'])
def test_the_line_that_tells_excel_the_separator_is_no_header(data, opened, names, first):
    rows = "".join(f"{name};{label}\n" for name, label in zip(names, "abab", strict=True))
    (data / "t.csv").write_text(f"{first}path;label\n{rows}")
    assert labels_of(opened()) == dict(zip(names, "abab", strict=True))


def test_rows_of_separators_below_the_last_one_are_no_rows(data, opened, names):
    (data / "t.csv").write_text(f"path,label,note\n{lines(names)},,\n , ,\n")
    assert len(labels_of(opened())) == 4


def test_paths_of_a_system_that_ignores_case_are_found(data, opened, names):
    (data / "t.csv").write_text("path,label\n" + lines(f"photos/{number}.PNG" for number in range(4)))
    source = opened()
    assert labels_of(source) == dict(zip(names, "abab", strict=True))
    assert "the files were found by their names" in source.notes


def test_an_accent_in_another_form_is_the_same_file(data, opened, names):
    composed, apart = (unicodedata.normalize(form, "Photos/été.png") for form in ("NFC", "NFD"))
    (data / "Photos" / "0.png").rename(data / composed)
    (data / "t.csv").write_text("path,label\n" + lines([apart, *names[1:]]))
    assert labels_of(opened())[composed] == "a"


def test_names_that_differ_by_case_alone_are_told_apart(data, opened, names):
    (data / "Photos" / "A.png").write_bytes(png(8))
    (data / "Photos" / "a.png").write_bytes(png(9))
    (data / "t.csv").write_text("path,label\n" + lines(["a", "A", *names], "ababab"))
    assert labels_of(opened())["Photos/a.png"] == "a"


def test_rows_that_say_the_same_are_one_and_contradictions_are_named(data, opened, names):
    (data / "t.csv").write_text(f"path,label\n{lines(names)}{lines(names[:2], 'ab')}")
    source = opened()
    assert labels_of(source) == dict(zip(names, "abab", strict=True))
    assert len(list(source.records())) == 4
    assert "2 rows say the same as an earlier one and are left out" in source.notes
    (data / "t.csv").write_text(f"path,label\n{lines(names)}{lines(names[:1], 'b')}")
    with pytest.raises(DataError, match=r"1 images have several rows, first Photos/0\.png \(a, and b\); keep one row"):
        opened()
    (data / "t.csv").write_text(f"path,label,split\n{names[0]},a,train\n{names[0]},a,test\n{names[1]},b,test\n")
    with pytest.raises(DataError, match=r"first Photos/0\.png \(a in train, and a in test\); keep one row"):
        opened()


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-32"])
def test_an_encoding_without_its_mark_is_named_and_no_missing_label(data, opened, names, encoding):
    (data / "t.csv").write_bytes(f"path,label\n{lines(names)}".encode(encoding))
    with pytest.raises(DataError, match=r"is not a CSV file in UTF-8 \(it holds NUL bytes\); save it as such"):
        opened()


def test_a_column_that_is_there_twice_is_asked_about(data, opened, names):
    (data / "t.csv").write_text("path,label,label\n" + "".join(f"{name},a,b\n" for name in names))
    with pytest.raises(DataError, match="has 2 columns label; rename all but one"):
        opened()


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ([[{"bytes": png(value), "path": None}] for value in range(2)], [0, 1]),
        ([list(png(value)) for value in range(2)], [0, 1]),
        ([{"path": "0.png"}, {"path": "1.png"}], [0, 1]),
        ([png(0), png(1)], [[0], [1]]),
        ([png(0), png(1)], [{"id": 0}, {"id": 1}]),
    ],
    ids=["list of images", "list of numbers", "path in a structure", "list of labels", "label in a structure"],
)
def test_a_cell_of_several_values_is_one_line(data, opened, images, labels):
    pq.write_table(pa.table({"image": images, "label": labels}), data / "t.parquet")
    with pytest.raises(DataError, match=r"row 1: (image|label) holds .*, and no single value; write one path and one"):
        opened(data / "t.parquet")


def test_a_path_that_no_disk_can_hold_is_a_file_that_is_not_there(data, opened, names):
    (data / "t.csv").write_text(f"path,label\n{lines([*names[:3], 'x' * 300])}")
    with pytest.raises(DataError, match="1 labels without a file, first xxx"):
        opened()


def test_labels_of_bytes_are_text_and_damage_behind_the_header_is_one_line(data, opened):
    path = data / "t.parquet"
    pq.write_table(pa.table({"image": [png(0), png(1)], "label": [b"a", b"b"]}), path, compression="snappy")
    assert opened(path).class_names == ("a", "b")
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + bytes(len(whole) // 3) + whole[4 + len(whole) // 3 :])
    with pytest.raises(DataError, match=r"is not a Parquet file, or damaged \(.*\); save it again"):
        opened(path)


def test_a_table_of_many_columns_shows_few_of_them(data, opened):
    (data / "t.csv").write_text("label," + ",".join(f"feature{number}" for number in range(784)) + "\n")
    with pytest.raises(DataError, match=r"has no column path.*feature18, …\)"):
        opened()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("annotations.json", "if the labels are in annotations.json, write a CSV file with the columns path and label"),
        ("labels.xlsx", "if the labels are in labels.xlsx, save the sheet as CSV"),
        ("Y.npy", "if the labels are in Y.npy, call the arrays images.npy and labels.npy and name their folder"),
    ],
)
@pytest.mark.parametrize("has_photos", [True, False])
def test_labels_in_a_file_that_is_not_read_are_pointed_at(data, opened, request, name, said, has_photos):
    if has_photos:
        request.getfixturevalue("names")
    (data / name).write_bytes(b"x")
    (data / "README.txt").write_text("no labels")
    with pytest.raises(DataError, match=said):
        opened()


def test_the_table_that_is_asked_about_is_the_one_that_may_have_labels(data, opened, names):
    (data / "test.csv").write_text("photo_nr\n1\n")
    (data / "train.csv").write_text("photo_nr,finding\n0,a\n")
    with pytest.raises(DataError, match=r"train\.csv has no column path.*\(its columns are photo_nr, finding\)"):
        opened()


def test_a_row_of_json_may_lack_a_key(data, opened, names):
    (data / "t.jsonl").write_text('{"file": "Photos/0.png"}\n{"file": "Photos/1.png", "label": "a"}\n')
    with pytest.raises(DataError, match=r"t\.jsonl, row 1 has no label; complete or drop the row"):
        opened()


def test_an_image_in_the_place_of_a_path_is_told_in_short(data, opened, names):
    (data / "t.csv").write_text(f"image,label\n{'iVBORw0KGgo' * 1000},a\nx,b\n")
    with pytest.raises(DataError, match=r"2 labels without a file, first iVBOR\w{90,95}…; add the files"):
        opened()


def test_a_column_with_another_value_for_each_image_is_no_column_of_classes(data, opened):
    rows = [(f"{number}.png", f"id{number}") for number in range(12)]
    for number in range(12):
        (data / f"{number}.png").write_bytes(png(number))
    (data / "t.csv").write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
    with pytest.raises(DataError, match=r"t\.csv: the column label has another value for each of the 12 images"):
        opened()
    pixels = " ".join(["7"] * 64)
    (data / "t.csv").write_text("label,pixels\n" + "".join(f"{label},{pixels}\n" for _, label in rows))
    with pytest.raises(DataError, match="the column label has another value for each of the 12 images"):
        opened()


def test_images_that_lie_packed_beside_their_table_are_told(data, opened):
    with zipfile.ZipFile(data / "train.zip", "w") as archive:
        archive.writestr("train/1.png", png(1))
    for column in ("id", "image"):
        (data / "labels.csv").write_text(f"{column},breed\n1,a\n2,b\n")
        with pytest.raises(DataError, match=r"images that .*labels\.csv names are in train\.zip; unpack it and name"):
            opened()
