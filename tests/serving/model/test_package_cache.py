"""A cache of packages on disk: what is kept, held, replaced and removed, also by several processes at once."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gapgate.errors import ArtifactError, StorageError
from serving.model.package_cache import PackageCache

URI = "models:/digits@champion"


@pytest.fixture
def cache(tmp_path: Path) -> PackageCache:
    return cache_in(tmp_path)


def cache_in(folder: Path, server: str = "http://mlflow:5000", name: str = "digits") -> PackageCache:
    return PackageCache(folder / "cache", server, name)


def package(cache: PackageCache, version: int, content: str = "weights") -> Path:
    """The folder of a version that was stored and used at the second `version`."""
    folder = cache.folder(str(version), f"sha256:{version:064x}")
    with cache.locked(), cache.replacing(folder) as place:
        place.mkdir()
        (place / "model.onnx").write_text(content)
    os.utime(folder, (version, version))
    return folder


def prune(cache: PackageCache, *folders: Path) -> list[Path]:
    """Those of the folders that are there after a pruning."""
    with cache.locked():
        cache.prune()
    return [folder for folder in folders if folder.exists()]


@contextmanager
def held_elsewhere(folder: Path, place: Path) -> Iterator[None]:
    """Another process holds a package."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(theirs, folder, place))
    process.start()
    try:
        assert ours.recv() == "held"
        yield
    finally:
        process.kill()  # the kernel releases the hold
        process.join()


def _hold(pipe: Any, folder: Path, place: Path) -> None:
    cache_in(folder).hold(place)
    pipe.send("held")
    pipe.recv()


def test_each_server_and_model_has_a_folder_of_its_own_with_a_name_for_people(tmp_path: Path) -> None:
    servers = (("http://a", "plants"), ("http://b", "plants"), ("http://a", "plan/ts"), ("http://a", "plan_ts"))
    folders = [cache_in(tmp_path, server, name).folder("3", "sha256:" + "ab" * 32) for server, name in servers]
    assert [folder.name for folder in folders] == ["3-abababababababab"] * 4
    parents = [folder.parent for folder in folders]
    assert [parent.name.rpartition("-")[0] for parent in parents] == ["plants", "plants", "plan_ts", "plan_ts"]
    assert len(set(parents)) == 4
    assert {parent.parent for parent in parents} == {tmp_path / "cache"}
    assert len(cache_in(tmp_path, name="a" * 300).folder("1", "x").parent.name) == 64 + len("-") + 12


def test_the_two_packages_used_last_stay(cache: PackageCache) -> None:
    first, second, third, fourth = (package(cache, number) for number in (1, 2, 3, 4))
    assert prune(cache, first, second, third, fourth) == [third, fourth]
    os.utime(third, (9, 9))
    fifth = package(cache, 5)
    assert prune(cache, third, fourth, fifth) == [third, fifth]


def test_what_a_process_holds_or_a_server_follows_stays(cache: PackageCache, tmp_path: Path) -> None:
    folders = [package(cache, number) for number in range(1, 6)]
    cache.hold(folders[0])
    for place in folders[1:]:
        os.utime(place, (2e9, 2e9))  # later than the hold, which counts as a use
    cache.follow(URI, {"version": "2", "package_digest": f"sha256:{2:064x}"})
    os.utime(folders[1], (3, 3))
    with held_elsewhere(tmp_path, folders[2]):
        os.utime(folders[2], (4, 4))
        assert prune(cache, *folders) == folders
    assert prune(cache, *folders) == [folders[0], folders[1], *folders[3:]]  # the other process is gone
    cache.keep([])
    assert prune(cache, *folders) == [folders[1], *folders[3:]]


def test_a_hold_is_a_use_and_tells_whether_its_folder_was_replaced(cache: PackageCache) -> None:
    place, other = package(cache, 1), package(cache, 2)
    cache.hold(place)
    assert place.stat().st_mtime > 1e9
    assert cache.holds(place)
    package(cache, 1, "other weights")
    assert (place / "model.onnx").read_text() == "other weights"
    assert not cache.holds(place)
    cache.hold(place)
    assert cache.holds(place)
    cache.hold(other)
    cache.keep([other])
    assert cache.holds(other)


def write(place: Path, content: str, error: Exception) -> None:
    place.parent.mkdir(exist_ok=True)
    place.write_text(content)
    raise error


def test_a_package_that_is_not_written_whole_leaves_the_one_before(cache: PackageCache) -> None:
    place = package(cache, 1)
    with cache.locked(), suppress(ZeroDivisionError), cache.replacing(place) as scratch:
        write(scratch / "model.onnx", "half", ZeroDivisionError())
    assert (place / "model.onnx").read_text() == "weights"
    assert sorted(path.name for path in place.parent.iterdir()) == [".lock", place.name]
    # As a process that was killed leaves it.
    (place.parent / ".partial" / "package").mkdir(parents=True)
    (place.parent / ".partial" / "package" / "model.onnx").write_text("half")
    other = package(cache, 2)
    assert sorted(path.name for path in place.parent.iterdir()) == [".lock", place.name, other.name]


def test_a_download_goes_on_unless_it_is_whole_or_at_fault_or_of_another_package(cache: PackageCache) -> None:
    with cache.locked():
        with suppress(ConnectionError), cache.archive("a") as file:
            write(file, "half", ConnectionError())
        with cache.archive("a") as file:
            assert file.read_text() == "half"
        for error in (ArtifactError("damaged"), StorageError("full")):
            with suppress(ArtifactError, StorageError), cache.archive("a") as file:
                assert not file.exists()
                write(file, "damaged", error)
        with suppress(ConnectionError), cache.archive("a") as file:
            assert not file.exists()
            write(file, "half", ConnectionError())
        with suppress(ConnectionError), cache.archive("b") as other:
            write(other, "of another package", ConnectionError())
    assert not file.exists()
    assert other.read_text() == "of another package"
    # A download is no package, however old it is.
    folders = [package(cache, 1), package(cache, 2)]
    os.utime(other.parent, (0, 0))
    assert prune(cache, other, *folders) == [other, *folders]


@pytest.mark.parametrize("error", [ArtifactError("damaged"), StorageError("full"), ConnectionError("reset")])
def test_an_error_of_a_download_or_of_its_package_is_passed_on(cache: PackageCache, error: Exception) -> None:
    with pytest.raises(type(error)), cache.locked(), cache.archive("a") as file:
        write(file, "half", error)
    with pytest.raises(type(error)), cache.locked(), cache.replacing(cache.folder("1", "x")) as place:
        write(place / "model.onnx", "half", error)


def test_the_version_that_was_followed_last_is_read_by_any_process(cache: PackageCache, tmp_path: Path) -> None:
    assert cache.followed(URI) is None
    with cache.locked():
        cache.follow(URI, {"version": "2"})
        cache.follow("models:/digits@challenger", {"version": "3"})
    again = cache_in(tmp_path)
    assert again.followed(URI) == {"version": "2"}
    assert again.followed("models:/digits@challenger") == {"version": "3"}
    assert cache_in(tmp_path, name="plants").followed(URI) is None


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '{"version": 2}', "[" * 100_000, '{"version": "1"'])
def test_a_note_that_cannot_be_read_is_none_and_protects_nothing(cache: PackageCache, content: str) -> None:
    folders = [package(cache, number) for number in (1, 2, 3)]
    with cache.locked():
        cache.follow(URI, {"version": "1", "package_digest": f"sha256:{1:064x}"})
    (note,) = folders[0].parent.glob("followed-*.json")
    note.write_text(content)
    assert cache.followed(URI) == ({"version": 2} if content == '{"version": 2}' else None)
    assert prune(cache, *folders) == folders[1:]


def test_the_lock_is_for_one_process_at_a_time(cache: PackageCache, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_lock, args=(theirs, tmp_path))
    with cache.locked():
        process.start()
        assert ours.recv() == "asks"
        assert not ours.poll(0.3)
    assert ours.recv() == "has it"
    process.join()
    assert (cache.folder("1", "x").parent / ".lock").exists()


def _lock(pipe: Any, folder: Path) -> None:
    pipe.send("asks")
    with cache_in(folder).locked():
        pipe.send("has it")


def test_the_folders_are_for_this_user_alone(cache: PackageCache, tmp_path: Path) -> None:
    with cache.locked():
        pass
    root = cache.folder("1", "x").parent
    assert [oct(place.stat().st_mode & 0o777) for place in (root, root.parent)] == ["0o700", "0o700"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
@pytest.mark.parametrize("is_parent", [True, False])
def test_a_folder_of_another_user_is_refused(cache: PackageCache, is_parent: bool) -> None:
    place = package(cache, 1)
    other = place.parent.parent if is_parent else place.parent
    os.chown(other, 12345, -1)
    for use in (lambda: cache.hold(place), lambda: cache.locked().__enter__()):
        with pytest.raises(
            StorageError, match="belongs to the user 12345, not to 0; choose another GAPGATE_MODEL_CACHE"
        ):
            use()


def test_notes_are_json_for_people_and_later_versions(cache: PackageCache) -> None:
    with cache.locked():
        cache.follow(URI, {"version": "2", "package_digest": "sha256:ab"})
    (note,) = cache.folder("1", "x").parent.glob("followed-*.json")
    assert json.loads(note.read_text()) == {"version": "2", "package_digest": "sha256:ab"}
