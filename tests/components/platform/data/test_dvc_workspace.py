"""Against a real git and a real DVC repository."""

import json
import shutil
import subprocess

import pytest
import yaml
from dvc.repo import Repo

from components.platform.data import dvc_hashes, dvc_workspace
from components.platform.data.dvc_hashes import Difference
from gapgate.errors import DataError
from tests.components.platform.repositories import dvc, push, stored, swap


def test_the_hash_is_the_one_that_dvc_gives(repository, photos):
    (photos / ".hidden").write_text("stays behind")
    pin = dvc_workspace.add(str(photos), repository)
    assert pin.hash == yaml.safe_load((repository / "data.dvc").read_text())["outs"][0]["md5"]
    assert dvc_hashes.dvc_hash(repository / "data") == pin.hash
    (photos / ".hidden").unlink()
    assert dvc_hashes.dvc_hash(photos) == pin.hash
    assert "Data and pipelines are up to date" in dvc("status", cwd=repository)


def test_an_unusable_source_leaves_the_data_as_it_was(repository, photos, tmp_path):
    before = dvc_workspace.add(str(photos), repository)
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(DataError):
            dvc_workspace.add(str(source), repository)
    assert dvc_workspace.status(repository).hash == before.hash
    names = {path.name for path in repository.iterdir()}
    assert names == {".dvc", ".dvcignore", ".git", ".gitignore", "data", "data.dvc"}


def test_a_changed_file_makes_the_workspace_dirty_and_restore_brings_it_back(repository, photos):
    pin = dvc_workspace.add(str(photos), repository)
    (repository / "data" / "cats" / "0.png").unlink()
    assert dvc_workspace.status(repository).is_dirty
    assert dvc_workspace.restore(repository) == pin
    assert not dvc_workspace.status(repository).is_dirty


def test_editing_the_source_does_not_touch_the_pinned_copy(repository, photos):
    dvc_workspace.add(str(photos), repository)
    with (photos / "cats" / "0.png").open("ab") as file:
        file.write(b"more")
    assert not dvc_workspace.status(repository).is_dirty


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_a_builtin_is_rebuilt_bit_for_bit_without_cache_or_remote(repository, name):
    pin = dvc_workspace.add(name, repository)
    for folder in (repository / "data", repository / ".dvc" / "cache"):
        subprocess.run(["rm", "-rf", str(folder)], check=True)
    assert dvc_workspace.restore(repository).hash == pin.hash == dvc_hashes.dvc_hash(repository / "data")


def test_restore_pulls_from_the_remote(repository, photos, tmp_path):
    pin = dvc_workspace.add(str(photos), repository)
    push(repository, tmp_path / "remote")
    subprocess.run(["rm", "-rf", str(repository / "data"), str(repository / ".dvc" / "cache")], check=True)
    dvc_workspace.restore(repository)
    assert dvc_hashes.dvc_hash(repository / "data") == pin.hash


def test_data_that_is_nowhere_is_one_line(repository, photos):
    dvc_workspace.add(str(photos), repository)
    subprocess.run(["rm", "-rf", str(repository / "data"), str(repository / ".dvc" / "cache")], check=True)
    with pytest.raises(DataError) as caught:
        dvc_workspace.restore(repository)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_repository_is_one_line(tmp_path, photos):
    with pytest.raises(DataError, match="git init"):
        dvc_workspace.add(str(photos), tmp_path)


def test_a_table_brings_the_images_that_it_names(repository, photos):
    table = photos / "labels.csv"
    rows = [f"{path.relative_to(photos)},{path.parent.name}" for path in sorted(photos.glob("*/*.png"))]
    table.write_text("\n".join(["path,label", *rows]) + "\n")
    dvc_workspace.add(str(table), repository)
    assert len(list((repository / "data").glob("*/*.png"))) == 6
    assert (repository / "data" / "labels.csv").exists()


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# Files that are kept nowhere else


@pytest.fixture
def data(repository, photos):
    """The pinned data, and what a user has put there since."""
    dvc_workspace.add(str(photos), repository)
    folder = repository / "data"
    (folder / "cats" / "new.png").write_bytes(b"new")
    (folder / "dogs" / "0.png").unlink()
    (folder / "dogs" / "0.png").write_bytes(b"mended")
    (folder / "dogs" / "1.png").unlink()
    return folder


def test_the_status_names_the_files_that_were_added_changed_and_removed(repository, data):
    found = dvc_workspace.status(repository)
    assert found.difference == Difference(("cats/new.png",), ("dogs/0.png",), ("dogs/1.png",))
    (listing,) = (repository / ".dvc" / "cache").rglob("*.dir")
    listing.unlink()
    assert dvc_workspace.status(repository).difference is None


def test_the_status_of_a_builtin_needs_no_cache(repository):
    dvc_workspace.add("digits", repository)
    shutil.rmtree(repository / ".dvc" / "cache")
    (repository / "data" / "classes.txt").unlink()
    assert dvc_workspace.status(repository).difference == Difference((), (), ("classes.txt",))


def test_restoring_stops_before_a_file_goes_that_is_kept_nowhere(repository, data):
    before = names(data)
    message = (
        "data has 2 files that would be lost, since nothing pins them: cats/new.png, dogs/0.png; "
        "pin them with `gapgate data add data`, move them away, or give --force"
    )
    with pytest.raises(DataError, match=message):
        dvc_workspace.restore(repository)
    assert names(data) == before
    assert (data / "dogs" / "0.png").read_bytes() == b"mended"
    dvc_workspace.restore(repository, force=True)
    assert not dvc_workspace.status(repository).is_dirty
    assert sorted(path.name for path in repository.iterdir() if "data" in path.name) == ["data", "data.dvc"]


def test_adding_another_source_stops_before_a_file_goes_that_is_kept_nowhere(repository, data, photos):
    shutil.rmtree(photos / "dogs")
    with pytest.raises(DataError, match=r"would be lost, .*: cats/new\.png, dogs/0\.png;"):
        dvc_workspace.add(str(photos), repository)
    assert (data / "cats" / "new.png").read_bytes() == b"new"
    dvc_workspace.add(str(data), repository)  # pins them
    dvc_workspace.add(str(photos), repository)
    assert names(data) == ["cats/0.png", "cats/1.png", "cats/2.png"]


def test_data_that_were_never_pinned_are_not_replaced(repository, photos):
    (repository / "data").mkdir()
    (repository / "data" / "mine.png").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"1 file that would be lost, since nothing pins them: mine\.png;"):
        dvc_workspace.add(str(photos), repository)
    dvc_workspace.add(str(photos), repository, force=True)
    assert len(names(repository / "data")) == 6


def test_a_hidden_file_is_not_lost_but_what_systems_leave_is(repository, photos):
    dvc_workspace.add(str(photos), repository)
    for name in (".notes.txt", ".DS_Store", "Thumbs.db"):
        (repository / "data" / "cats" / name).write_text("x")
    for source in (str(repository / "data"), str(photos)):
        with pytest.raises(DataError, match=r"pins them: cats/\.notes\.txt; move them away, or give --force"):
            dvc_workspace.add(source, repository)
    (repository / "data" / "cats" / ".notes.txt").unlink()
    dvc_workspace.add(str(repository / "data"), repository)
    assert len(names(repository / "data")) == 6


def test_a_file_whose_content_the_cache_has_may_go_unless_the_cache_is_damaged(repository, data, photos):
    dvc_workspace.add(str(data), repository)
    (data / "again.png").write_bytes(b"new")
    dvc_workspace.restore(repository)
    assert not (data / "again.png").exists()
    (data / "again.png").write_bytes(b"new")
    (data / "cats" / "new.png").unlink()
    swap(stored(repository / ".dvc" / "cache", b"new"), b"old")
    with pytest.raises(DataError, match=r"that is pinned for cats/new\.png"):
        dvc_workspace.restore(repository)
    assert (data / "again.png").read_bytes() == b"new"


# Interruptions


def test_what_a_killed_command_left_is_cleaned_up_by_the_next(repository, photos):
    pin = dvc_workspace.add(str(photos), repository)
    (repository / ".data.partial-1").mkdir()
    (repository / "data").rename(repository / ".data.replaced-1")
    assert dvc_workspace.status(repository).hash == pin.hash
    (repository / ".data.replaced-1").mkdir()
    (repository / ".data.replaced-1" / "half").touch()
    dvc_workspace.restore(repository)
    assert sorted(path.name for path in repository.iterdir() if "data" in path.name) == ["data", "data.dvc"]


def test_an_addition_that_was_killed_before_the_pin_can_be_repeated(repository, photos):
    dvc_workspace.add("digits", repository)
    shutil.rmtree(repository / "data")
    shutil.copytree(photos, repository / "data")
    assert len(names(repository / "data")) == dvc_workspace.add(str(photos), repository).num_files == 6


# What a cache or a remote gives


@pytest.fixture
def pushed(repository, photos, tmp_path):
    """The folder of a remote to which the repository's data were pushed; they are gone from the workspace."""
    dvc_workspace.add(str(photos), repository)
    push(repository, tmp_path / "remote")
    shutil.rmtree(repository / "data")
    return tmp_path / "remote"


def test_a_damaged_object_in_the_cache_is_taken_from_the_remote_instead(repository, photos, pushed):
    swap(stored(repository / ".dvc" / "cache", (photos / "cats" / "0.png").read_bytes()), b"damaged")
    pin = dvc_workspace.restore(repository)
    assert dvc_hashes.dvc_hash(repository / "data") == pin.hash
    stored(repository / ".dvc" / "cache", (photos / "cats" / "0.png").read_bytes())


def test_an_object_that_was_swapped_in_the_remote_is_not_restored(repository, photos, pushed):
    shutil.rmtree(repository / ".dvc" / "cache")
    whole = (photos / "cats" / "0.png").read_bytes()
    place = stored(pushed, whole)
    swap(place, (photos / "dogs" / "0.png").read_bytes())
    with pytest.raises(DataError, match=r"has not the content that is pinned for cats/0\.png of .*data; `dvc push`"):
        dvc_workspace.restore(repository)
    assert not (repository / "data").exists()
    swap(place, whole)
    pin = dvc_workspace.restore(repository)
    assert dvc_hashes.dvc_hash(repository / "data") == pin.hash


def test_a_list_of_files_that_was_swapped_in_the_remote_is_not_restored(repository, pushed):
    shutil.rmtree(repository / ".dvc" / "cache")
    (listing,) = pushed.rglob("*.dir")
    whole = listing.read_bytes()
    swap(listing, json.dumps(json.loads(whole)[1:]).encode())
    with pytest.raises(DataError, match=r"pinned for the list of the files of .*data; `dvc push`"):
        dvc_workspace.restore(repository)
    swap(listing, whole)
    dvc_workspace.restore(repository)
    assert not dvc_workspace.status(repository).is_dirty


def test_a_single_file_is_restored_and_hashed(repository, photos):
    file = repository / "one.png"
    shutil.copy(photos / "cats" / "0.png", file)
    with Repo(str(repository)) as repo:
        repo.add(str(file))
    file.unlink()
    assert dvc_workspace.restore(repository, "one.png").hash == dvc_hashes.dvc_hash(file)
    file.unlink()
    swap(stored(repository / ".dvc" / "cache", (photos / "cats" / "0.png").read_bytes()), b"damaged")
    with pytest.raises(DataError, match=r"pinned for one\.png"):
        dvc_workspace.restore(repository, "one.png")


def test_a_pin_of_dvc_2_is_restored(repository):
    """Its hashes are those of text files with line ends of Unix."""
    (repository / "data").mkdir()
    (repository / "data" / "a.csv").write_bytes(b"a,b\r\n1,2\r\n")
    found = dvc_hashes.hashes_of(repository / "data", "md5-dos2unix")
    for value, content in ((found.files["a.csv"], b"a,b\r\n1,2\r\n"), (found.value, listing_of(found))):
        place = repository / ".dvc" / "cache" / value[:2] / value[2:]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    (repository / "data.dvc").write_text(yaml.safe_dump({"outs": [{"md5": found.value, "nfiles": 1, "path": "data"}]}))
    shutil.rmtree(repository / "data")
    dvc_workspace.restore(repository)
    assert (repository / "data" / "a.csv").read_bytes() == b"a,b\r\n1,2\r\n"
    assert not dvc_workspace.status(repository).is_dirty


def listing_of(found):
    return json.dumps([{"md5": value, "relpath": name} for name, value in found.files.items()]).encode()
