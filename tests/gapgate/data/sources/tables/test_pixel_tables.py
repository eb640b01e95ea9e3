"""Tables with the pixels in them, as Kaggle has MNIST, sign language and FER-2013."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gapgate.errors import DataError
from gapgate.settings.sections import Reading

SIDE = 8
LABELS = "abab"


@pytest.fixture
def images():
    """Four images (4, 8, 8)."""
    return np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE), np.uint8)


def rows_of(images, separator=","):
    return [separator.join(map(str, image.ravel().tolist())) for image in images]


def header(size=SIDE * SIDE, name="pixel{}"):
    return ",".join(name.format(number) for number in range(size))


def write(path, images, labels=LABELS, names=None):
    lines = [f"{label},{row}" for label, row in zip(labels, rows_of(images), strict=True)]
    path.write_text("\n".join([f"label,{names or header(images[0].size)}", *lines]) + "\n")


def read(source):
    """(class, split, pixels) of each image."""
    return [
        (source.class_names[record.label], record.split, source.reader.read(record.locator, 10**6))
        for record in source.records()
    ]


def same(source, images, labels=LABELS):
    found = read(source)
    assert [label for label, _, _ in found] == list(labels)
    np.testing.assert_array_equal(np.stack([pixels for _, _, pixels in found]), images)
    return True


@pytest.mark.parametrize("name", ["pixel{}", "pixel_{}", "px{}", "{}x1", "Pixel {}"])
def test_a_column_for_each_pixel_is_an_image(data, opened, images, name):
    write(data / "train.csv", images, names=header(name=name))
    source = opened()
    assert same(source, images)
    assert source.notes == ("train.csv: images of 8 × 8 pixels, row by row, gray",)


def test_three_values_a_pixel_are_colours(data, opened):
    images = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), np.uint8)
    write(data / "t.csv", images)
    source = opened()
    assert same(source, images)
    assert "red, green and blue" in source.notes[0]


@pytest.mark.parametrize(("separator", "ends"), [(" ", '""'), (", ", '""'), (",", ("[", "]"))])
def test_a_text_of_all_pixels_is_an_image_and_usage_is_its_split(data, opened, images, separator, ends):
    first, last = ends if ends != '""' else ("", "")
    usages = ["Training", "Training", "PublicTest", "PrivateTest"]
    lines = [
        f'{label},"{first}{row}{last}",{usage}'
        for label, row, usage in zip("0303", rows_of(images, separator), usages, strict=True)
    ]
    (data / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *lines]))
    source = opened()
    assert same(source, images, "0303")
    assert [split for _, split, _ in read(source)] == ["train", "train", "test", "test"]


def test_lists_in_parquet_and_other_tables_keep_their_group_and_folds(data, opened, images):
    columns = {"label": list(LABELS), "pixels": [image.ravel().tolist() for image in images]}
    pq.write_table(pa.table({**columns, "group": list("ppqq"), "fold": [0, 1, 2, 2]}), data / "t.parquet")
    source = opened()
    assert same(source, images)
    assert [(record.group, record.split) for record in source.records()] == [
        ("p", "train"), ("p", "val"), ("q", "test"), ("q", "test"),
    ]  # fmt: skip


@pytest.mark.parametrize("names", [("train", "test"), ("sign_mnist_train", "sign_mnist_test")])
def test_a_table_for_each_split_is_read_and_kaggles_unlabelled_one_left_out(data, opened, images, names):
    write(data / f"{names[0]}.csv", images[:2], "ab")
    write(data / f"{names[1]}.csv", images[2:], "ab")
    assert sorted((split, label) for label, split, _ in read(opened())) == [
        ("test", "a"), ("test", "b"), ("train", "a"), ("train", "b"),
    ]  # fmt: skip
    (data / f"{names[1]}.csv").write_text("\n".join([header(), *rows_of(images[2:])]))
    (data / "sample_submission.csv").write_text("ImageId,Label\n1,0\n")
    source = opened()
    assert same(source, images[:2], "ab")
    assert f"{names[1]}.csv has no labels and is left out" in source.notes


def test_a_table_without_a_header_is_asked_for_the_labels_column(data, opened, images):
    (data / "t.csv").write_text("\n".join(f"{number % 2},{row}" for number, row in enumerate(rows_of(images))))
    with pytest.raises(DataError, match=r"t.csv has no header.*which column is the label.*--label-column 1"):
        opened()
    assert same(opened(reading=Reading(label_column="1")), images, "0101")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("256", "'256'"),
        ("-1", "'-1'"),
        ("0.5", "'0.5'"),
        ("", "an empty cell"),
        ("x", "'x'"),
        ("nan", "'nan'"),
        ("1e400", "'1e400'"),
    ],
)
def test_a_value_that_is_no_pixel_is_named_with_its_row(data, opened, images, value, said):
    write(data / "t.csv", images)
    lines = (data / "t.csv").read_text().splitlines()
    lines[2] = ",".join([*lines[2].split(",")[:-1], value])
    (data / "t.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=rf"t.csv, row 2: {said} is no pixel; write whole numbers from 0"):
        opened()


def test_rows_of_other_lengths_and_shapes_are_refused(data, opened, images):
    (data / "t.csv").write_text(f"label,pixels\na,{rows_of(images, ' ')[0]}\nb,1 2 3 4\n")
    with pytest.raises(DataError, match="row 2 has 4 pixels, and those before it 64"):
        opened()
    (data / "t.csv").write_text("label,pixels\na,1 2 3\nb,1 2 5\n")
    assert opened().reader.read("0:1", 9).shape == (1, 1, 3)
    (data / "t.csv").write_text("label,pixels\na,1 2 3 4 5\nb,1 2 5 6 7\n")
    with pytest.raises(DataError, match="has 5 pixels in a row, which are no square"):
        opened()


def test_a_row_without_a_label_is_told_and_a_table_of_files_may_count_pixels(data, opened, images):
    write(data / "t.csv", images, ["a", "", "a", "b"])
    with pytest.raises(DataError, match="row 2 has no label"):
        opened()
    (data / "t.csv").write_text("path,label,pixels\n0.png,a,4096\n")
    with pytest.raises(DataError, match=r"1 labels without a file, first 0.png"):
        opened()


def test_whole_numbers_as_floats_are_labels_and_pixels(data, opened, images):
    lines = [f"{number % 2}.0,{row.replace(',', '.0,')}.0" for number, row in enumerate(rows_of(images))]
    (data / "t.csv").write_text("\n".join([f"label,{header()}", *lines]))
    assert same(opened(), images, "0101")


def test_the_order_of_classes_is_that_of_their_numbers(data, opened, images):
    write(data / "t.csv", images, ["10", "2", "10", "2"])
    assert opened().class_names == ("2", "10")


def test_lines_of_pixels_are_an_image_and_a_large_text_is_no_fault(data, opened, images):
    rows = [{"label": label, "pixels": image.tolist()} for label, image in zip(LABELS, images, strict=True)]
    (data / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert same(opened(data / "t.jsonl"), images)
    large = np.random.default_rng(0).integers(100, 256, (2, 200, 200), np.uint8)
    (data / "t.csv").write_text("label,pixels\n" + "".join(f"{i},{row}\n" for i, row in enumerate(rows_of(large, " "))))
    assert same(opened(data / "t.csv"), large, "01")


@pytest.mark.parametrize("change", [1, -1])
def test_a_row_of_more_or_fewer_pixels_than_those_before_it_is_refused(data, opened, images, change):
    rows = ["1 " * (64 + (change if number == 2 else 0)) for number in range(4)]
    (data / "t.csv").write_text(
        "\n".join(["label,pixels", *(f"{number % 2},{row}" for number, row in enumerate(rows))])
    )
    with pytest.raises(DataError, match=f"row 3 has {64 + change} pixels, and those before it 64"):
        opened(data / "t.csv")


def test_labels_of_more_digits_than_a_number_holds_are_names(data, opened, images):
    labels = ["123456789012345678901", "223456789012345678901"]
    write(data / "t.csv", images, labels=labels * 2)
    assert opened(data / "t.csv").class_names == tuple(labels)
