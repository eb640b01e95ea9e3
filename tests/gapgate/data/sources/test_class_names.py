"""Names of classes: given by the user, in two forms of Unicode, and such that only look alike."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from gapgate.data.sources.classes import read_class_names, reading_of
from gapgate.errors import DataError
from gapgate.settings.sections import DataSettings, Reading


@pytest.fixture
def classes(data, opened):
    """Opens class folders of some names, each with one image; answers (class, path) of each."""

    def make(*names, **answers):
        for name in names:
            (data / name).mkdir(parents=True)
            Image.new("L", (6, 4)).save(data / name / "1.png")
        source = opened(data, Reading(**answers))
        return [(source.class_names[record.label], record.id) for record in source.records()]

    return make


def test_two_forms_of_an_accent_are_one_class(classes):
    composed, apart = (unicodedata.normalize(form, "été") for form in ("NFC", "NFD"))
    assert {name for name, _ in classes(f"train/{composed}", "train/b", f"test/{apart}", "test/b")} == {composed, "b"}


@pytest.mark.parametrize(
    "names",
    [
        ("Cat", "cat", "dog"),
        ("1", "1.0", "2"),
        ("01", "1", "2"),
        ("t-shirt", "T shirt"),
        ("a", "a\u200b"),
        ("❤", "❤\ufe0f"),
    ],
)
def test_names_that_look_alike_are_asked_about(classes, names):
    with pytest.raises(DataError, match=r"differ in their spelling only: are they one class\? .*=merge \(or keep\)"):
        classes(*names)


def test_names_that_look_alike_are_merged_or_kept(classes, data, opened):
    assert {name for name, _ in classes("Cat", "cat", "dog", alike_classes="merge")} == {"Cat", "dog"}
    assert opened(data, Reading(alike_classes="keep")).class_names == ("Cat", "cat", "dog")


def test_classes_get_the_names_that_are_given(classes, data, opened):
    assert classes("0", "1", "10", class_names={"0": "no", "1": "yes", "10": "maybe"})[2] == ("maybe", "10/1.png")
    with pytest.raises(DataError, match=r"class '10' has no name: data\.class_names has 2 names for 3 classes"):
        opened(data, Reading(class_names=("no", "yes")))


def test_a_list_begins_with_label_0(classes):
    assert classes("0", "1", class_names=("no", "yes")) == [("no", "0/1.png"), ("yes", "1/1.png")]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("names.txt", "no\nyes\n", ("no", "yes")),
        ("names.json", '["no", "yes"]', ("no", "yes")),
        ("names.json", '{"1": "yes"}', {"1": "yes"}),
        ("class_indices.json", '{"no": 0, "yes": 1}', {"0": "no", "1": "yes"}),
        ("names.yaml", "- no\n- yes\n", ("no", "yes")),
    ],
)
def test_a_file_of_names_is_read(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert reading_of(DataSettings(class_names=str(tmp_path / name))).class_names == expected


def test_a_file_of_names_that_cannot_be_used_is_explained(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the class names in .*gone\.txt \(No such file or directory\)"):
        read_class_names(tmp_path / "gone.txt")
    (tmp_path / "names.json").write_text("3")
    with pytest.raises(DataError, match="holds a int; write a list of class names"):
        read_class_names(tmp_path / "names.json")


@pytest.mark.parametrize("name", ["a\x1b[31mred", "a\tb", "a\x9b31m", "a\u202eb"])
def test_a_name_that_would_steer_a_terminal_is_refused_in_one_line(classes, name):
    with pytest.raises(DataError, match="control character; rename the class") as caught:
        classes(name, "b")
    assert str(caught.value).isprintable()


def test_a_name_with_marks_that_some_scripts_need_is_a_name(classes):
    names = {"می\u200cخواهم", "猫\u3000犬"}
    assert {name for name, _ in classes(*names)} == names


def test_a_list_that_is_not_in_the_order_of_the_alphabet_numbers_the_classes(data, opened):
    np.savez(data / "a.npz", images=np.zeros((3, 8, 8), np.uint8), labels=np.array([0, 1, 0]))
    source = opened(data / "a.npz", Reading(class_names=("zebra", "ant")))
    assert source.class_names == ("zebra", "ant")
    assert [record.label for record in source.records()] == [0, 1, 0]


def test_numbers_are_counted_through_a_list_of_names_that_are_numbers_too(data, opened):
    np.savez(data / "a.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.array([0, 1, 2, 1]))
    source = opened(data / "a.npz", Reading(class_names=("1", "2", "3")))
    assert source.class_names == ("1", "2", "3")
    assert [record.label for record in source.records()] == [0, 1, 2, 1]


def test_a_label_beyond_the_list_has_no_name(data, opened):
    np.savez(data / "a.npz", images=np.zeros((3, 8, 8), np.uint8), labels=np.array([0, 1, 2]))
    with pytest.raises(DataError, match=r"class '2' has no name: data\.class_names has 2 names for 3 classes"):
        opened(data / "a.npz", Reading(class_names=("no", "yes")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"cat": 0, "dog": 1}', {"0": "cat", "1": "dog"}),  # Keras's class_indices
        ('{"0": "cat", "1": "dog"}', {"0": "cat", "1": "dog"}),
        ('{"0": "cat", "1": 7}', {"0": "cat", "1": "7"}),  # a name that is a number
        ('["cat", 7]', ("cat", "7")),
        ("{}", {}),
    ],
)
def test_a_mapping_leads_from_labels_to_names_unless_all_of_it_leads_to_numbers(tmp_path, text, expected):
    (tmp_path / "names.json").write_text(text)
    assert read_class_names(tmp_path / "names.json") == expected
