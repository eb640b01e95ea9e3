import subprocess
import sys
from pathlib import Path

import pytest

from gapgate.errors import StorageError
from gapgate.files import recover, whole_file, whole_folder


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


def killed(path: Path, *, before: str) -> None:
    """Replace the folder at `path` in a process that is killed at its n-th rename or its removal of the old folder."""
    code = (
        "import os, shutil, sys\n"
        "from pathlib import Path\n"
        "from gapgate.files import whole_folder\n"
        "path, before = Path(sys.argv[1]), sys.argv[2]\n"
        "calls = []\n"
        "def stop(event, arguments):\n"
        "    if event in ('os.rename', 'shutil.rmtree'):\n"
        "        calls.append(event)\n"
        "    if calls and f'{calls[-1]} {calls.count(calls[-1])}' == before:\n"
        "        os._exit(9)\n"
        "with whole_folder(path) as fresh:\n"
        "    (fresh / 'new').touch()\n"
        "    sys.addaudithook(stop)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path), before]).returncode == 9


@pytest.mark.parametrize(
    ("before", "kept"), [("os.rename 1", ["old"]), ("os.rename 2", ["old"]), ("shutil.rmtree 1", ["new"])]
)
def test_a_process_that_is_killed_while_it_replaces_a_folder_leaves_the_old_or_the_new_one(
    tmp_path: Path, before: str, kept: list[str]
) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    killed(path, before=before)
    recover(path)
    assert names(path) == kept
    assert names(tmp_path) == ["folder"]


def test_a_file_or_a_link_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    for name in ("file", "link"):
        with (
            pytest.raises(StorageError, match="a file or a link is where a folder should be"),
            whole_folder(tmp_path / name),
        ):
            pass
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(names(tmp_path)) == ["elsewhere", "file", "link"]
