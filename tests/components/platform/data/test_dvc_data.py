"""Against a real git and a real DVC repository."""

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from dvc.repo import Repo

from components.platform.data import dvc_data, dvc_hashes, dvc_workspace
from gapgate.errors import DataError
from tests.components.platform.repositories import begin, draw, git, push, stored, swap


def test_fetch_takes_exactly_the_revision(repository, photos, tmp_path):
    first = dvc_workspace.add(str(photos), repository)
    git("add", "-A", cwd=repository)
    git("commit", "-qm", "first", cwd=repository)
    (photos / "cats" / "0.png").unlink()
    dvc_workspace.add(str(photos), repository)
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
    dvc_workspace.add(str(photos), repository)
    git("add", "-A", cwd=repository)
    git("commit", "-qm", "first", cwd=repository)
    with pytest.raises(DataError) as caught:
        dvc_data.fetch(str(repository), revision, path, tmp_path / "target")
    assert "\n" not in str(caught.value)


def test_files_that_were_never_pushed_are_named_with_the_remedy(repository, photos, tmp_path):
    dvc_workspace.add(str(photos), repository)
    git("add", "-A", cwd=repository)
    git("commit", "-qm", "first", cwd=repository)
    git("clone", "-q", str(repository), str(tmp_path / "elsewhere"), cwd=tmp_path)
    with pytest.raises(DataError, match="run `dvc push`"):
        dvc_data.fetch(str(tmp_path / "elsewhere"), "HEAD", "data", tmp_path / "target")


def test_the_repository_pins_digits_as_it_is_built_here(tmp_path):
    pin = dvc_data.pin_of(Path(__file__).parents[4])
    dvc_data.stage("digits", tmp_path, link=False)
    assert (pin.hash, pin.source) == (dvc_hashes.dvc_hash(tmp_path), "digits")


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """A repository without a cache, and the remote to which its data were pushed."""
    folder = tmp_path_factory.mktemp("pushed")
    root = begin(folder / "repository")
    dvc_workspace.add(str(draw(folder / "photos")), root)
    push(root, folder / "remote")
    shutil.rmtree(root / ".dvc" / "cache")
    return root, folder / "remote"


@contextmanager
def swapped(place, content):
    whole = place.read_bytes()
    swap(place, content)
    try:
        yield
    finally:
        swap(place, whole)


@pytest.mark.parametrize("path", ["data", "data/cats", "data/cats/0.png"])
def test_an_object_that_was_swapped_in_the_remote_is_refused(pushed, photos, tmp_path, path):
    root, remote = pushed
    for name in ("whole", "target"):
        (tmp_path / name).mkdir()
    dvc_data.fetch(str(root), "HEAD", path, tmp_path / "whole")
    place = stored(remote, (photos / "cats" / "0.png").read_bytes())
    message = r"has not the content that is pinned for .*0\.png of data.*; `dvc push` it again"
    with swapped(place, (photos / "dogs" / "0.png").read_bytes()), pytest.raises(DataError, match=message):
        dvc_data.fetch(str(root), "HEAD", path, tmp_path / "target")


def test_an_object_that_is_damaged_in_the_cache_is_taken_from_the_remote_instead(pushed, photos, tmp_path):
    root, _ = pushed
    whole = (photos / "cats" / "0.png").read_bytes()
    with Repo(str(root)) as repo:
        repo.fetch()
    swap(stored(root / ".dvc" / "cache", whole), b"damaged")
    dvc_data.fetch(str(root), "HEAD", "data", tmp_path / "target")
    assert (tmp_path / "target" / "cats" / "0.png").read_bytes() == whole
    shutil.rmtree(root / ".dvc" / "cache")


@pytest.mark.parametrize("path", ["data", "data/cats"])
def test_a_list_of_files_that_was_swapped_in_the_remote_is_refused(pushed, tmp_path, path):
    root, remote = pushed
    (listing,) = remote.rglob("*.dir")
    for name in ("target", "mended"):
        (tmp_path / name).mkdir()
    with Repo(str(root)) as repo:
        repo.drop_data_index()
    other = listing.read_bytes().replace(b"cats/0.png", b"dogs/9.png")
    with swapped(listing, other), pytest.raises(DataError, match="pinned for the list of the files of data"):
        dvc_data.fetch(str(root), "HEAD", path, tmp_path / "target")
    dvc_data.fetch(str(root), "HEAD", path, tmp_path / "mended")


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


def test_a_hidden_folder_of_images_is_told_unless_a_program_makes_it(photos, tmp_path):
    (photos / "cats").rename(photos / ".net")
    (photos / "dogs" / ".ipynb_checkpoints").mkdir()
    shutil.copy(photos / "dogs" / "0.png", photos / "dogs" / ".ipynb_checkpoints" / "0-checkpoint.png")
    names, left_out = staged(photos, tmp_path / "staged")
    assert names == [f"dogs/{number}.png" for number in range(3)]
    assert left_out == {".net": "a hidden folder of images; rename it if it is a class"}
    shutil.rmtree(photos / "dogs")
    with pytest.raises(DataError, match=r"holds no files but \.net \(a hidden folder of images; rename it"):
        staged(photos, tmp_path / "again")


def test_a_path_that_is_too_long_for_the_system_is_one_line(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos / "cats")
    for _ in range(18):
        Path("x" * 240).mkdir()
        os.chdir("x" * 240)
    shutil.copy(photos / "dogs" / "0.png", "deep.png")
    with pytest.raises(DataError, match="… is too long a path for this system; shorten the names of its folders"):
        staged(photos, tmp_path / "staged")
