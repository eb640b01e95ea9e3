"""Downloads of packages that are cut off, killed, damaged, or have no room on the disk."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gapgate.errors import ArtifactError, StorageError, TrackingError
from gapgate.evidence.sealed import seal
from serving.model.registry import MlflowRegistry, ModelUri, Resolved
from tests.mounts import mounted
from tests.serving import packaged
from tests.serving.registry_server import Publisher, RegistryServer, proxy
from tests.waiting import wait_for

ROOT = Path(__file__).parents[3]
FETCH = """
import sys
from pathlib import Path
from serving.model.registry import MlflowRegistry, ModelUri
registry = MlflowRegistry(sys.argv[1], ModelUri.parse(sys.argv[2]), Path(sys.argv[3]))
registry.fetch(registry.resolve())
"""


@pytest.fixture(scope="module")
def publisher(mlflow_server: RegistryServer, tmp_path_factory: pytest.TempPathFactory) -> Publisher:
    """With version 1, whose archive has a digest, and version 2, of before 0.3, whose archive has none."""
    folder = tmp_path_factory.mktemp("published")
    made = Publisher(mlflow_server, f"model {folder.name}", packaged.folder(folder / "source"), folder / "made")
    made.publish()
    made.client.delete_model_version_tag(made.name, made.publish(), "gapgate.archive")
    return made


def started(url: str, publisher: Publisher, cache_dir: Path, version: str = "1") -> tuple[MlflowRegistry, Resolved]:
    """A registry as a process that starts has it, and what it says about a version."""
    registry = MlflowRegistry(url, ModelUri.parse(f"models:/{publisher.name}/{version}"), cache_dir)
    return registry, registry.resolve()


def ranges(seen: list[dict[str, str]]) -> list[str]:
    return [headers["Range"] for headers in seen if "Range" in headers]


def archive(cache_dir: Path) -> Path:
    (found,) = cache_dir.glob("*/.download-*/model.bento")
    return found


def cut_off(url: str, publisher: Publisher, cache_dir: Path) -> Path:
    """What is left of a download from a proxy that cuts off 100 bytes, twice: at the second try nothing comes."""
    registry, resolved = started(url, publisher, cache_dir)
    with pytest.raises(TrackingError, match=r"stopped 100 bytes before the end of package/model\.bento"):
        registry.fetch(resolved)
    assert resolved.package_bytes
    assert archive(cache_dir).stat().st_size == resolved.package_bytes - 100
    return archive(cache_dir)


def cuts() -> Iterator[int]:
    return iter((100, 100))


def test_a_file_that_stops_again_and_again_comes_whole_in_one_fetch(
    mlflow_server: RegistryServer, publisher: Publisher, tmp_path: Path
) -> None:
    for version, has_new_tags in (("1", False), ("1", True), ("2", False)):
        with proxy(mlflow_server, stop_bytes=100_000, has_new_tags=has_new_tags) as (url, seen):
            registry, resolved = started(url, publisher, tmp_path / "cache", version)
            assert seal.verify(registry.fetch(resolved)) == resolved.package_digest
        assert ranges(seen)[:2] == ["bytes=100000-", "bytes=200000-"][: len(ranges(seen))]
        assert ranges(seen)


@pytest.mark.parametrize("has_new_tags", [False, True], ids=["of a local store", "of a remote store"])
def test_a_download_that_was_cut_off_goes_on_after_a_restart_where_it_was(
    has_new_tags: bool, mlflow_server: RegistryServer, publisher: Publisher, tmp_path: Path
) -> None:
    with proxy(mlflow_server, cuts=cuts(), has_new_tags=has_new_tags) as (url, seen):
        left = cut_off(url, publisher, tmp_path).stat().st_size
        seen.clear()
        registry, resolved = started(url, publisher, tmp_path)
        assert seal.verify(registry.fetch(resolved)) == resolved.package_digest
        assert ranges(seen) == [f"bytes={left}-"]
    assert not list(tmp_path.rglob(".*/"))


def test_a_download_goes_on_where_it_was_when_its_process_was_killed(
    mlflow_server: RegistryServer, publisher: Publisher, tmp_path: Path
) -> None:
    goes_on = threading.Event()
    with proxy(mlflow_server, pause=goes_on) as (url, seen):
        command = [sys.executable, "-c", FETCH, url, f"models:/{publisher.name}/1", str(tmp_path)]
        with subprocess.Popen(command, cwd=ROOT) as process:
            try:
                # What the process has not yet given to the system is lost with it.
                wait_for(lambda: any(path.stat().st_size for path in tmp_path.glob("*/.download-*/model.bento")))
            finally:
                process.kill()
        goes_on.set()
        left = archive(tmp_path).stat().st_size
        seen.clear()
        registry, resolved = started(url, publisher, tmp_path)
        assert seal.verify(registry.fetch(resolved)) == resolved.package_digest
        assert ranges(seen) == [f"bytes={left}-"]


def test_a_whole_archive_that_a_kill_left_is_used_and_a_damaged_one_comes_anew(
    mlflow_server: RegistryServer, publisher: Publisher, tmp_path: Path
) -> None:
    whole = (publisher._scratch / "1" / "model.bento").read_bytes()
    for number, content in enumerate((whole, bytes(len(whole)), bytes(1000), whole + b"more")):
        with proxy(mlflow_server, cuts=cuts()) as (url, _):
            cache_dir = tmp_path / str(number)
            cut_off(url, publisher, cache_dir).write_bytes(content)
            registry, resolved = started(url, publisher, cache_dir)
            if content != whole:
                with pytest.raises(TrackingError, match=r"does not fit the part that was there already|still growing"):
                    registry.fetch(resolved)
            assert seal.verify(registry.fetch(resolved)) == resolved.package_digest


def test_a_part_of_an_archive_without_a_digest_or_of_another_version_is_not_used(
    mlflow_server: RegistryServer, publisher: Publisher, tmp_path: Path
) -> None:
    with proxy(mlflow_server, cuts=iter((100, 100, 100, 100))) as (url, seen):
        cut_off(url, publisher, tmp_path)
        registry, resolved = started(url, publisher, tmp_path, "2")
        with pytest.raises(TrackingError, match="stopped 100 bytes"):
            registry.fetch(resolved)
        assert archive(tmp_path)  # of version 2: that of version 1 is gone
        seen.clear()
        registry.fetch(resolved)
        assert ranges(seen) == []


def test_an_archive_over_the_limit_is_refused_and_nothing_of_it_is_kept(
    mlflow_server: RegistryServer, publisher: Publisher, tmp_path: Path
) -> None:
    uri = ModelUri.parse(f"models:/{publisher.name}/1")
    registry = MlflowRegistry(mlflow_server.url, uri, tmp_path, max_package_bytes=10_000)
    with pytest.raises(ArtifactError, match=r"package/model\.bento of run .* has more than the limit of 10,000 bytes"):
        registry.fetch(registry.resolve())
    assert not list(tmp_path.glob("*/*/"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for less than a package."""
    yield from mounted(tmp_path / "disk", "size=128k")


@pytest.mark.parametrize("is_size_known", [True, False])
def test_a_full_disk_is_told_takes_no_download_where_the_size_is_known_and_keeps_no_part(
    is_size_known: bool, mlflow_server: RegistryServer, publisher: Publisher, disk: Path
) -> None:
    with proxy(mlflow_server) as (url, seen):
        registry, resolved = started(url, publisher, disk)
        if not is_size_known:
            resolved = replace(resolved, package_bytes=0)
        seen.clear()
        with pytest.raises(StorageError, match=r"choose another GAPGATE_MODEL_CACHE|the disk is full"):
            registry.fetch(resolved)
        assert len(seen) == (0 if is_size_known else 1)
    assert not list(disk.glob("*/*/"))
