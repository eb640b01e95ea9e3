"""Folders of a data set as people and programs call them: which are splits, which are classes, which are neither."""

import pytest
from PIL import Image

from gapgate.errors import DataError
from gapgate.settings.sections import Reading


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 4)).save(path)


def counts(source):
    """(split, class) → number of images."""
    found = {}
    for record in source.records():
        key = (record.split, source.class_names[record.label])
        found[key] = found.get(key, 0) + 1
    return found


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("Train", "Test", "test"),
        ("training", "dev", "val"),
        ("train", "eval", "val"),
        ("train set", "test set", "test"),
        ("trainset", "valset", "val"),
        ("train_images", "test_images", "test"),
        ("seg_train", "seg_test", "test"),
        ("flowers-training", "flowers-holdout", "test"),
        ("train2017", "val2017", "val"),
        ("trainval", "test", "test"),
        ("Training", "Prüfung", "test"),
        ("entraînement", "test", "test"),
        ("treino", "validação", "val"),
        ("训练集", "测试集", "test"),
        ("seg_train/seg_train", "seg_test/seg_test", "test"),
    ],
)
def test_usual_names_of_splits_are_splits(data, opened, train, other, split):
    for folder in (train, other):
        write(data, f"{folder}/a/1.png", f"{folder}/b/1.png")
    source = opened()
    assert counts(source) == {(s, c): 1 for s in ("train", split) for c in "ab"}
    assert any(f"is {split}" in note for note in source.notes) == ((train.lower(), other.lower()) != ("train", split))


@pytest.mark.parametrize("unlabelled", ["test/1.png", "test/test/1.png", "test/unknown/1.png", "seg_pred/1.png"])
def test_a_test_split_without_labels_is_left_out_with_a_line(data, opened, unlabelled):
    write(data, "train/a/1.png", "train/b/1.png", unlabelled)
    if unlabelled.startswith("seg"):
        (data / "train").rename(data / "seg_train")
    source = opened()
    assert counts(source) == {("", "a"): 1, ("", "b"): 1} or counts(source) == {("train", "a"): 1, ("train", "b"): 1}
    assert any("1 images" in note and "left out" in note for note in source.notes)


def test_classes_may_be_called_train_and_test(data, opened):
    write(data, "train/1.png", "bus/1.png", "test/1.png")
    assert opened().class_names == ("bus", "test", "train")


def test_a_folder_of_images_beside_splits_is_asked_about(data, opened_with):
    write(data, *(f"{name}/{label}/1.png" for name in ("train", "test", "extra") for label in "ab"))
    (data / "docs").mkdir()
    with pytest.raises(DataError, match=r"holds test, train and extra: are they splits, or classes\? .*extra: out"):
        opened_with()
    assert counts(opened_with(splits={"extra": "out"})) == {(s, c): 1 for s in ("train", "test") for c in "ab"}
    assert counts(opened_with(splits={"extra": "val"}))["val", "b"] == 1
    assert opened_with(splits="none").class_names == ("docs", "extra", "test", "train")
    with pytest.raises(DataError, match=r"data\.splits names more, which is no folder in .*; it has docs, extra"):
        opened_with(splits={"more": "out"})


def test_folds_are_asked_about(data, opened_with):
    write(data, *(f"fold{number}/{label}/1.png" for number in (1, 2, 3) for label in "ab"))
    with pytest.raises(DataError, match=r"each of the folders fold1, fold2, fold3 in .* holds a, b: which are the cl"):
        opened_with()
    assert opened_with(splits={"fold1": "train", "fold2": "train", "fold3": "test"}).class_names == ("a", "b")
    assert opened_with(splits="none").class_names == ("fold1", "fold2", "fold3")


def test_unlabelled_training_images_are_refused(data, opened):
    write(data, "train/1.png", "test/a/1.png", "test/b/1.png")
    with pytest.raises(DataError, match=r"1 images without a label in .*train"):
        opened()


def test_folders_of_systems_are_no_classes(data, opened):
    write(data, "a/1.png", "b/1.png", "a/@eaDir/1.png")
    for name in ("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__MACOSX"):
        write(data, f"{name}/x/1.png")
    assert counts(opened()) == {("", "a"): 1, ("", "b"): 1}


def test_folders_above_the_classes_are_passed(data, opened):
    write(data, "archive/data/a/1.png", "archive/data/b/1.png")
    assert opened().class_names == ("a", "b")


@pytest.fixture
def opened_with(data, opened):
    return lambda **answers: opened(data, Reading(**answers))


def test_splits_of_a_set_for_detection_are_no_classes(data, opened):
    write(data, "train2017/1.png", "val2017/1.png")
    (data / "annotations").mkdir()
    (data / "annotations" / "instances.json").write_text("{}")
    with pytest.raises(DataError, match=r"1 images without a label in .*train2017, such as 1\.png"):
        opened()


def test_folders_of_texts_are_no_classes_and_pass_for_nothing(data, opened):
    write(data, "images/a/1.png", "images/b/1.png")
    for place in ("docs/about.md", "labels/boxes/1.txt"):
        (data / place).parent.mkdir(parents=True)
        (data / place).write_text("0 .5 .5 .1 .1")
    source = opened()
    assert counts(source) == {("", "a"): 1, ("", "b"): 1}


def test_a_folder_of_texts_beside_classes_is_left_out_with_a_line(data, opened):
    write(data, "a/1.png", "b/1.png", "c/1.png")
    (data / "b" / "1.png").rename(data / "b" / "1")  # a file without a known suffix may be an image
    (data / "c" / "1.png").rename(data / "c" / "1.dcm")
    (data / "d").mkdir()
    (data / "d" / "notes.txt").write_text("x")
    source = opened()
    assert (source.class_names, source.notes) == (("a", "b", "c"), ("d/ holds no images and is left out",))


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_one_split_alone_is_divided_like_any_other_data_set(data, opened, name):
    write(data, f"{name}/a/1.png", f"{name}/b/2.png", f"{name}/b/3.png")
    assert counts(opened()) == {("", "a"): 1, ("", "b"): 2}


@pytest.mark.parametrize("name", ["val", "test"])
def test_a_split_whose_only_folder_is_no_class_of_train_is_left_out_with_a_note(data, opened, name):
    write(data, "train/a/1.png", "train/b/2.png", f"{name}/unknown/3.png", f"{name}/unknown/4.png")
    source = opened()
    assert counts(source) == {("train", "a"): 1, ("train", "b"): 1}
    assert f"{name}/ holds 2 images in unknown, which is no class of train, and is left out" in source.notes
    write(data, f"{name}/a/5.png")
    assert ("test" if name == "test" else "val", "unknown") in counts(opened())


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_one_split_beside_images_to_be_predicted_is_divided_too(data, opened, name):
    write(data, f"{name}/a/1.png", f"{name}/b/2.png", "predict/3.png")
    source = opened()
    assert counts(source) == {("", "a"): 1, ("", "b"): 1}
    assert "predict/ holds 1 images without class folders and is left out" in source.notes
