from pathlib import Path

import pytest

from gapgate.errors import StorageError
from gapgate.files import whole_file, whole_folder


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def fail_to_write(path: Path) -> None:
    with whole_file(path) as partial:
        partial.write_text("new")
        raise KeyError


def fail_to_fill(path: Path) -> None:
    with whole_folder(path) as partial:
        (partial / "new").touch()
        raise KeyError


def write_on_a_full_disk(path: Path) -> None:
    with whole_file(path) as partial:
        partial.symlink_to("/dev/full")
        partial.write_text("new")


def test_a_file_takes_its_name_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with whole_file(path, fsync=True) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["file"]


def test_a_file_whose_writing_fails_leaves_the_old_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyError):
        fail_to_write(path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_folder_takes_its_name_with_nothing_of_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "folder"
    with whole_folder(path) as partial:
        (partial / "old").touch()
        assert not path.exists()
    with whole_folder(path) as partial:
        (partial / "new").touch()
    assert names(path) == ["new"]
    assert names(path.parent) == ["folder"]


def test_a_folder_whose_filling_fails_leaves_the_old_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with whole_folder(path) as partial:
        (partial / "old").touch()
    with pytest.raises(KeyError):
        fail_to_fill(path)
    assert names(path) == ["old"]
    assert names(tmp_path) == ["folder"]


def test_a_folder_begins_empty_after_a_killed_process_of_the_same_number(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with whole_folder(path) as partial:
        name = partial.name
    (tmp_path / name / "left").mkdir(parents=True)
    with whole_folder(path) as partial:
        assert names(partial) == []


def test_a_full_disk_is_a_storage_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(StorageError, match=rf"{path}: the disk is full"):
        write_on_a_full_disk(path)
    assert names(tmp_path) == []
