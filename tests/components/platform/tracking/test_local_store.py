"""The workspace's own store after the workspace was copied, moved, or called by another name."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from components.platform.run_context import RunContext
from components.platform.tracking import mlflow_client, mlflow_experiments
from components.platform.tracking.spool import Spool
from gapgate.errors import StorageError
from tests.components import releases
from tests.components.releases import Made
from tests.mounts import mounted
from tests.serving import packaged

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # importing mlflow.onnx

LATER = """
import sys
from pathlib import Path
from components.platform.run_context import RunContext
from components.platform.tracking import mlflow_client, mlflow_experiments, mlflow_runs
from components.platform.registry.mlflow_registry import Registry
from pipelines.local.bentos import champion_bento
from tests.components import releases
registry = Registry()
(version,) = registry.versions(releases.NAME)
found = champion_bento(releases.NAME), registry.receipt(version)["run"], mlflow_runs.send(RunContext("r1"))
print(*found, releases.release(releases.Made("r2", Path(sys.argv[1])))["version"], sep="|")
"""


@pytest.fixture(params=["100k", "600k"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "disk", f"size={request.param}")


def test_a_disk_without_room_for_the_store_is_named_and_no_half_store_stays(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAPGATE_HOME", str(small_disk / "home"))
    with pytest.raises(StorageError, match=r"mlflow\.db: the disk is full; free space"):
        mlflow_client.client()
    assert [path.name for path in (small_disk / "home").iterdir()] == ["mlflow.lock"]


def places(home: Path) -> set[str]:
    """All texts in the database that hold a `file:` URI."""
    found = set()
    with closing(sqlite3.connect(home / "mlflow.db")) as store:
        for (table,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in store.execute(f'SELECT * FROM "{table}"'):
                found |= {value for value in row if isinstance(value, str) and "file:" in value}
    return found


@pytest.mark.parametrize("is_moved", [True, False])
def test_a_workspace_that_was_moved_or_copied_works_and_its_old_place_is_not_written(
    home: Path, make: Callable[..., Made], tmp_path: Path, is_moved: bool
) -> None:
    assert releases.release(make("r1"))["alias"] == "champion"
    report = RunContext("r1").folder / "artifacts" / "report.html"
    report.parent.mkdir()
    report.write_text("not sent yet")
    Spool(RunContext("r1").spool, "gate").file(report, "late")
    new = tmp_path / "new 100% #2"  # a name that a URI writes in another way
    shutil.copytree(home, new)
    if is_moved:
        shutil.rmtree(home)
    before = {path: path.stat().st_mtime_ns for path in [home, *home.rglob("*")] if path.exists()}
    # In a process of its own: MLflow keeps the place of a run's artifacts in mind.
    environment = os.environ | {"GAPGATE_HOME": str(new), "MLFLOW_TRACKING_URI": "", "GAPGATE_RUN": ""}
    made = make("r2", packaged.pooled_model()).folder
    done = subprocess.run([sys.executable, "-c", LATER, made], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    bento, receipt, run, version = done.stdout.splitlines()[-1].split("|")
    assert (receipt, version) == ("r1", "2")
    assert Path(bento).is_relative_to(new)
    assert (new / "mlartifacts" / run / "artifacts" / "late" / "report.html").read_text() == "not sent yet"
    assert all(place.startswith(new.as_uri()) for place in places(new))
    assert {path: path.stat().st_mtime_ns for path in [home, *home.rglob("*")] if path.exists()} == before


def test_another_name_of_the_same_workspace_changes_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow_experiments.experiment_id(mlflow_client.client(), "gapgate")
    (home / "mlartifacts").mkdir()
    before = places(home)
    (tmp_path / "link").symlink_to(home)
    monkeypatch.setenv("GAPGATE_HOME", str(tmp_path / "link"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    mlflow_client.client()
    assert places(home) == before
    assert before


def test_a_damaged_store_is_one_line(home: Path) -> None:
    (home / "mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match=r"cannot use .*mlflow.db \(file is not a database\)"):
        mlflow_client.client()


@pytest.mark.parametrize("name", ["what?", "a%41"])
def test_a_place_that_a_database_cannot_have_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("GAPGATE_HOME", str(tmp_path / name))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    with pytest.raises(StorageError, match="choose another folder by GAPGATE_HOME"):
        mlflow_client.client()
    assert list(tmp_path.iterdir()) == []
