"""Against a real git and a real DVC repository."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from components.platform import dvc_data, dvc_hashes
from gapgate.errors import DataError


def dvc(*arguments, cwd):
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)


def git(*arguments, cwd):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True, text=True)


@pytest.fixture
def repository(tmp_path):
    root = tmp_path / "repository"
    root.mkdir()
    git("init", "-q", cwd=root)
    dvc("init", "-q", cwd=root)
    return root


@pytest.fixture
def photos(tmp_path):
    for name, value in (("cats", 10), ("dogs", 200)):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(3):
            Image.new("L", (9, 9), value + number).save(folder / f"{number}.png")
    return tmp_path / "photos"


def test_the_hash_is_the_one_that_dvc_gives(repository, photos):
    (photos / ".hidden").write_text("stays behind")
    pin = dvc_data.add(str(photos), repository)
    assert pin.hash == yaml.safe_load((repository / "data.dvc").read_text())["outs"][0]["md5"]
    assert dvc_hashes.dvc_hash(repository / "data") == pin.hash
    (photos / ".hidden").unlink()
    assert dvc_hashes.dvc_hash(photos) == pin.hash
    assert "Data and pipelines are up to date" in dvc("status", cwd=repository).stdout


def test_an_unusable_source_leaves_the_data_as_it_was(repository, photos, tmp_path):
    before = dvc_data.add(str(photos), repository)
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(DataError):
            dvc_data.add(str(source), repository)
    assert dvc_data.status(repository).hash == before.hash
    names = {path.name for path in repository.iterdir()}
    assert names == {".dvc", ".dvcignore", ".git", ".gitignore", "data", "data.dvc"}


def test_a_changed_file_makes_the_workspace_dirty_and_restore_brings_it_back(repository, photos):
    pin = dvc_data.add(str(photos), repository)
    (repository / "data" / "cats" / "0.png").unlink()
    assert dvc_data.status(repository).is_dirty
    assert dvc_data.restore(repository) == pin
    assert not dvc_data.status(repository).is_dirty


def test_editing_the_source_does_not_touch_the_pinned_copy(repository, photos):
    dvc_data.add(str(photos), repository)
    with (photos / "cats" / "0.png").open("ab") as file:
        file.write(b"more")
    assert not dvc_data.status(repository).is_dirty


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_a_builtin_is_rebuilt_bit_for_bit_without_cache_or_remote(repository, name):
    pin = dvc_data.add(name, repository)
    for folder in (repository / "data", repository / ".dvc" / "cache"):
        subprocess.run(["rm", "-rf", str(folder)], check=True)
    assert dvc_data.restore(repository).hash == pin.hash == dvc_hashes.dvc_hash(repository / "data")


def test_restore_pulls_from_the_remote(repository, photos, tmp_path):
    dvc("remote", "add", "-d", "store", str(tmp_path / "remote"), cwd=repository)
    pin = dvc_data.add(str(photos), repository)
    dvc("push", "-q", cwd=repository)
    subprocess.run(["rm", "-rf", str(repository / "data"), str(repository / ".dvc" / "cache")], check=True)
    dvc_data.restore(repository)
    assert dvc_hashes.dvc_hash(repository / "data") == pin.hash


def test_data_that_is_nowhere_is_one_line(repository, photos):
    dvc_data.add(str(photos), repository)
    subprocess.run(["rm", "-rf", str(repository / "data"), str(repository / ".dvc" / "cache")], check=True)
    with pytest.raises(DataError) as caught:
        dvc_data.restore(repository)
    assert "\n" not in str(caught.value)


def test_fetch_takes_exactly_the_revision(repository, photos, tmp_path):
    first = dvc_data.add(str(photos), repository)
    git("add", "-A", cwd=repository)
    git("commit", "-qm", "first", cwd=repository)
    (photos / "cats" / "0.png").unlink()
    dvc_data.add(str(photos), repository)
    git("commit", "-qam", "second", cwd=repository)
    target = tmp_path / "fetched"
    target.mkdir()
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD~1"], cwd=repository, capture_output=True, text=True
    ).stdout.strip()
    assert dvc_data.fetch(str(repository), "HEAD~1", "data", target) == (first.hash, commit)
    assert dvc_hashes.dvc_hash(target) == first.hash


@pytest.mark.parametrize(("revision", "path"), [("no-such-revision", "data"), ("HEAD", "elsewhere")])
def test_a_revision_or_path_that_is_not_there_is_one_line(repository, photos, tmp_path, revision, path):
    dvc_data.add(str(photos), repository)
    git("add", "-A", cwd=repository)
    git("commit", "-qm", "first", cwd=repository)
    with pytest.raises(DataError) as caught:
        dvc_data.fetch(str(repository), revision, path, tmp_path / "target")
    assert "\n" not in str(caught.value)


def test_files_that_were_never_pushed_are_named_with_the_remedy(repository, photos, tmp_path):
    dvc_data.add(str(photos), repository)
    git("add", "-A", cwd=repository)
    git("commit", "-qm", "first", cwd=repository)
    git("clone", "-q", str(repository), str(tmp_path / "elsewhere"), cwd=tmp_path)
    with pytest.raises(DataError, match="run `dvc push`"):
        dvc_data.fetch(str(tmp_path / "elsewhere"), "HEAD", "data", tmp_path / "target")


def test_a_folder_that_is_no_repository_is_one_line(tmp_path, photos):
    with pytest.raises(DataError, match="git init"):
        dvc_data.add(str(photos), tmp_path)


def test_a_table_brings_the_images_that_it_names(repository, photos):
    table = photos / "labels.csv"
    rows = [f"{path.relative_to(photos)},{path.parent.name}" for path in sorted(photos.glob("*/*.png"))]
    table.write_text("\n".join(["path,label", *rows]) + "\n")
    dvc_data.add(str(table), repository)
    assert len(list((repository / "data").glob("*/*.png"))) == 6
    assert (repository / "data" / "labels.csv").exists()


def test_the_repository_pins_digits_as_it_is_built_here(tmp_path):
    pin = dvc_data.pin_of(Path(__file__).parents[3])
    dvc_data.stage("digits", tmp_path, link=False)
    assert (pin.hash, pin.source) == (dvc_hashes.dvc_hash(tmp_path), "digits")


# Folders as they are found


def staged(source, folder):
    """(names of the staged files, name → reason of what was left out)."""
    folder.mkdir()
    left_out = dvc_data.stage(str(source), folder, link=True)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return names, {each["name"]: each["reason"] for each in left_out}


def test_links_are_followed_and_loops_pipes_and_dead_ends_are_left_out(photos, tmp_path):
    whole = dvc_data.hash_of_source(str(photos))
    store = tmp_path / "store"
    (photos / "cats").rename(store)
    (photos / "cats").symlink_to(store)
    (photos / "dogs" / "0.png").rename(store.parent / "0.png")
    (photos / "dogs" / "0.png").symlink_to(store.parent / "0.png")
    for place, target in (("dead.png", "/nowhere"), ("self.png", "self.png"), ("up", ".."), ("here", ".")):
        (photos / "dogs" / place).symlink_to(target)
    os.mkfifo(photos / "dogs" / "pipe.png")
    names, left_out = staged(photos, tmp_path / "staged")
    assert names == [f"{folder}/{number}.png" for folder in ("cats", "dogs") for number in range(3)]
    assert left_out == {
        "dogs/dead.png": "a link to nothing; remove it",
        "dogs/self.png": "a link to nothing; remove it",
        "dogs/up": "a link to the data set, in which it lies; remove it",
        "dogs/here": "a link to dogs, in which it lies; remove it",
        "dogs/pipe.png": "a pipe or a device; remove it",
    }
    assert dvc_hashes.dvc_hash(tmp_path / "staged") == dvc_data.hash_of_source(str(photos)) == whole


def test_a_pipe_is_no_source(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    for source in (tmp_path / "pipe.csv", "/dev/zero"):
        with pytest.raises(DataError, match="is a pipe or a device; name a folder or a file"):
            dvc_data.hash_of_source(str(source))


def test_names_that_are_not_utf_8_become_it(photos, tmp_path):
    (photos / "cats").rename(photos / os.fsdecode(b"\xe9t\xe9"))
    (photos / "dogs" / "0.png").rename(photos / "dogs" / os.fsdecode(b"\x81.png"))
    names, left_out = staged(photos, tmp_path / "staged")
    assert names == ["dogs/1.png", "dogs/2.png", "dogs/\\x81.png", "été/0.png", "été/1.png", "été/2.png"]
    assert not left_out
    (photos / "été").mkdir()
    with pytest.raises(DataError, match="two entries are called été"):
        dvc_data.hash_of_source(str(photos))
