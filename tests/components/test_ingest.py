"""What ingest records of the data that it took, against a real git and DVC repository."""

import subprocess
import sys

import numpy as np
import pytest

from components.execute import make
from components.platform.data import dvc_data, dvc_hashes, dvc_workspace
from gapgate import artifacts
from gapgate.errors import ArtifactError
from gapgate.settings.sections import DataSettings
from gapgate.tracking import NullTracker


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository that pins `digits`, and is the current folder."""
    root = tmp_path / "repository"
    root.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=root, check=True)
    dvc_workspace.add("digits", root)
    monkeypatch.chdir(root)
    return root


def facts(folder, **settings):
    artifact, _ = make("ingest", DataSettings(**settings), {}, folder, NullTracker())
    return artifact.read_json("dataset.json")


def test_the_workspace_is_recorded_with_its_hash(repository, tmp_path):
    found = facts(tmp_path / "dataset")
    assert found["dvc_hash"] == dvc_data.pin_of(repository).hash
    assert found["dirty"] is False


def test_a_dirty_workspace_is_recorded_as_dirty_with_the_hash_really_used(repository, tmp_path):
    with (repository / "data" / "classes.txt").open("a") as file:
        file.write("\n")
    found = facts(tmp_path / "dataset")
    assert found["dirty"] is True
    assert found["dvc_hash"] == dvc_hashes.dvc_hash(tmp_path / "dataset" / "files") != dvc_data.pin_of(repository).hash


def test_how_the_workspace_differs_from_its_pin_is_said(repository, tmp_path):
    (repository / "data" / "classes.txt").unlink()
    (repository / "data" / "new.png").touch()
    _, said = make("ingest", DataSettings(), {}, tmp_path / "dataset", NullTracker())
    assert said.notes == [
        "data differs from its pin: files added: 1, changed: 0, gone: 1; `gapgate data status` lists them"
    ]


def test_data_that_a_killed_command_had_put_aside_are_taken(repository, tmp_path):
    (repository / "data").rename(repository / ".data.replaced-1")
    assert facts(tmp_path / "dataset")["dirty"] is False
    assert not list(repository.glob(".data.*"))


def test_a_file_that_is_added_to_the_artifact_is_refused(repository, tmp_path):
    facts(tmp_path / "dataset")
    (tmp_path / "dataset" / "files" / "more.npy").touch()
    with pytest.raises(ArtifactError, match=r"files/more\.npy was added later"):
        artifacts.load(tmp_path / "dataset", "dataset", verify_trees=True)


def test_missing_data_is_restored_first(repository, tmp_path):
    subprocess.run(["rm", "-rf", str(repository / "data")], check=True)
    assert facts(tmp_path / "dataset")["dirty"] is False
    assert (repository / "data" / "images.npy").exists()


def test_a_source_of_its_own_has_the_hash_that_pinning_it_would_give(repository, tmp_path):
    assert facts(tmp_path / "dataset", source="digits")["dvc_hash"] == dvc_data.pin_of(repository).hash


def test_writing_into_the_source_afterwards_is_noticed(repository, tmp_path):
    facts(tmp_path / "dataset")
    with (repository / "data" / "classes.txt").open("a") as file:
        file.write("\n")
    with pytest.raises(ArtifactError, match="was changed"):
        artifacts.load(tmp_path / "dataset", "dataset", verify_trees=True)


def test_a_pinned_file_is_clean_with_its_own_hash_and_dirty_when_it_was_changed(repository, tmp_path):
    np.savez(repository / "a.npz", x=np.zeros((4, 8, 8), np.uint8), y=np.arange(4) % 2)
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "a.npz"], cwd=repository, check=True)
    found = facts(tmp_path / "first", path="a.npz")
    assert (found["dirty"], found["dvc_hash"]) == (False, dvc_data.pin_of(repository, "a.npz").hash)
    with (repository / "a.npz").open("ab") as file:
        file.write(b"x")
    found = facts(tmp_path / "second", path="a.npz")
    assert found["dirty"] is True
    assert found["dvc_hash"] != dvc_data.pin_of(repository, "a.npz").hash


def test_a_line_break_in_the_path_of_a_source_is_no_line_of_the_terminal(tmp_path):
    source = tmp_path / "two\nlines"
    (source / "a").mkdir(parents=True)
    (source / "a" / "1.png").touch()
    _, said = make("ingest", DataSettings(source=str(source)), {}, tmp_path / "dataset", NullTracker())
    assert "\n" not in said.summary
    assert r"two\nlines, DVC hash" in said.summary
