"""Tables with a column for each class, a 1 in that of the image, as ISIC's and plant pathology's."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gapgate.errors import DataError
from gapgate.settings.sections import Reading

ROWS = [(1, 0, 0), (0, 1, 0), (0, 1, 0), (1, 0, 0)]


@pytest.fixture
def photos(data):
    """Image files 0.png … 3.png."""
    for number in range(4):
        Image.new("L", (6, 4), number).save(data / f"{number}.png")
    return data


def write(folder, rows, header="image,MEL,NV,UNK", name="labels.csv"):
    lines = [",".join(map(str, (number, *row))) for number, row in enumerate(rows)]
    (folder / name).write_text("\n".join([header, *lines]) + "\n")


def classes(source):
    return {record.locator: source.class_names[record.label] for record in source.records()}


@pytest.mark.parametrize("kind", [int, float, bool])
def test_the_class_is_the_column_with_the_one(photos, opened, kind):
    write(photos, [map(kind, row) for row in ROWS])
    source = opened()
    assert classes(source) == {"0.png": "MEL", "1.png": "NV", "2.png": "NV", "3.png": "MEL"}
    assert "labels.csv: path from image, label from the 1 in MEL, NV, UNK" in source.notes


@pytest.mark.parametrize(("row", "found"), [((1, 0, 1), "MEL, UNK"), ((0, 0, 0), "none"), ((1, 0, 0.5), "MEL")])
def test_an_image_of_no_class_or_of_two_is_told_by_its_row(photos, opened, row, found):
    write(photos, [*ROWS[:3], row])
    # 0.5 makes the whole column one of shares, which is no class.
    if 0.5 in row:
        write(photos, [*ROWS[:3] * 400, row])
    number = 1201 if 0.5 in row else 4
    with pytest.raises(
        DataError, match=rf"labels.csv, row {number}: a 1 is in {found} of the columns MEL, NV, UNK; an"
    ):
        opened()


def test_a_table_of_several_labels_an_image_is_refused_in_one_line(photos, opened):
    write(photos, [(1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 0, 0)])
    with pytest.raises(
        DataError, match=r"row 1: a 1 is in MEL, NV of the columns MEL, NV, UNK; an image has one class"
    ):
        opened()


def test_shares_of_classes_are_no_classes(photos, opened):
    write(photos, [(0.5, 0.5, 0), (0.2, 0.8, 0), (1, 0, 0), (0, 1, 0)])
    with pytest.raises(DataError, match="has no column label; call it one of label"):
        opened()


def test_labels_and_class_folders_go_before_properties(photos, opened):
    (photos / "classes.csv").write_text(
        "image,label\n" + "".join(f"{number},{'ab'[number % 2]}\n" for number in range(4))
    )
    write(photos, ROWS)
    assert set(classes(opened()).values()) == {"a", "b"}
    (photos / "classes.csv").unlink()
    write(photos, [(1, 1, 0), (0, 0, 0), (1, 1, 1), (0, 1, 1)], header="image,is_night,is_wet,is_blurred")
    for number in range(4):
        (photos / "ab"[number % 2]).mkdir(exist_ok=True)
        (photos / f"{number}.png").rename(photos / "ab"[number % 2] / f"{number}.png")
    assert set(classes(opened()).values()) == {"a", "b"}


def test_a_named_column_of_labels_is_taken_instead(photos, opened):
    write(photos, [(*row, "xy"[row[0]]) for row in ROWS], header="image,MEL,NV,UNK,finding")
    assert opened().class_names == ("MEL", "NV")
    assert opened(reading=Reading(label_column="finding")).class_names == ("x", "y")


def test_images_in_parquet_may_have_such_columns(data, opened):
    def png(value):
        out = io.BytesIO()
        Image.new("L", (6, 4), value).save(out, "PNG")
        return out.getvalue()

    columns = dict(zip(("cat", "dog", "cow"), zip(*ROWS, strict=True), strict=True))
    pq.write_table(pa.table({"image": [png(number) for number in range(4)], **columns}), data / "train.parquet")
    source = opened()
    assert [source.class_names[record.label] for record in source.records()] == ["cat", "dog", "dog", "cat"]
