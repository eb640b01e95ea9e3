"""`gapgate clean` frees old runs' artifacts, and none that somebody needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.platform.run_context import RunContext
from components.platform.tracking.mlflow_client import client
from pipelines.local.cleaning import champion_runs, free, old_runs

RUNS = ("20260101-000000-aaaa", "20260102-000000-bbbb", "20260103-000000-cccc", "20260104-000000-dddd")


@pytest.fixture(autouse=True)
def runs(home: Path) -> list[Path]:
    """Folders of four runs, oldest first; each has a log of 5 bytes and artifacts of 100, 200, 300 and 400 bytes."""
    folders = [home / "runs" / name for name in RUNS]
    for number, folder in enumerate(folders, 1):
        (folder / "artifacts" / "train").mkdir(parents=True)
        (folder / "artifacts" / "train" / "model.onnx").write_bytes(bytes(60 * number))
        (folder / "artifacts" / "report.html").write_bytes(bytes(40 * number))
        (folder / "log.txt").write_text("words")
    return folders


def register(model: str, run: str, *aliases: str) -> None:
    """A version of a model that a run has made."""
    registry = client()
    if not registry.search_registered_models(f"name = '{model}'"):
        registry.create_registered_model(model)
    version = registry.create_model_version(model, "file:///none", tags={"gapgate.run": run})
    for alias in aliases:
        registry.set_registered_model_alias(model, alias, version.version)


@pytest.mark.parametrize(("keep", "freed"), [(0, 4), (1, 3), (3, 1), (4, 0), (9, 0)])
def test_the_newest_runs_keep_their_artifacts_and_the_oldest_go_first(keep: int, freed: int) -> None:
    found = old_runs(keep)
    assert [run.name for run in found] == list(RUNS[:freed])
    assert [run.size_bytes for run in found] == [100, 200, 300, 400][:freed]


def test_a_champion_of_any_model_stays_and_a_former_one_goes() -> None:
    register("gapgate", RUNS[0], "previous")
    register("gapgate", RUNS[1], "champion")
    register("gapgate", RUNS[2], "challenger")
    register("plants", RUNS[3], "challenger", "champion")
    assert champion_runs() == {RUNS[1], RUNS[3]}
    assert [run.name for run in old_runs(0)] == [RUNS[0], RUNS[2]]
    assert [run.name for run in old_runs(2)] == [RUNS[0]]  # the champions are among those that are kept


def test_a_run_at_work_stays_with_all_that_runs_share(home: Path) -> None:
    for name in ("trials", "features", "bentos"):
        (home / name).mkdir()
        (home / name / "file").write_bytes(bytes(7))
    with RunContext(RUNS[1]).alive():
        assert [run.name for run in old_runs(0)] == [RUNS[0], RUNS[2], RUNS[3]]
    found = old_runs(0)
    assert [run.name for run in found] == [*RUNS, "trials", "features", "bentos"]
    assert [run.size_bytes for run in found[4:]] == [7, 7, 7]


def test_only_artifacts_are_removed(runs: list[Path], tmp_path: Path) -> None:
    outside = tmp_path / "photos"
    outside.mkdir()
    (outside / "photo.png").write_bytes(bytes(1000))
    (runs[0] / "artifacts" / "files").symlink_to(outside)
    (runs[0] / "artifacts" / "photo.png").symlink_to(outside / "photo.png")
    (oldest,) = old_runs(3)
    # What a link names is neither counted nor removed; the link itself takes the bytes of the name.
    assert oldest.size_bytes == 100 + len(bytes(outside / "photo.png"))
    free([oldest])
    assert [path.name for path in runs[0].iterdir()] == ["log.txt"]
    assert (outside / "photo.png").exists()
    assert all((folder / "artifacts").exists() for folder in runs[1:])
    assert [run.name for run in old_runs(0)] == list(RUNS[1:])
