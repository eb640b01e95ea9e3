import errno
import json

import pytest

from gapgate import artifacts
from gapgate.errors import ArtifactError, StorageError


def make(folder, content="a", settings=None, inputs=None):
    with artifacts.create(
        folder, kind="dataset", step="ingest", settings=settings or {}, inputs=inputs or {}, trees=("files",)
    ) as path:
        (path / "files" / "cats").mkdir(parents=True)
        (path / "files" / "cats" / "1.txt").write_text(content)
        (path / "dataset.json").write_text("{}")
    return artifacts.load(folder, "dataset")


def test_equal_content_has_an_equal_digest(tmp_path):
    assert make(tmp_path / "one").digest == make(tmp_path / "two").digest


@pytest.mark.parametrize("change", [{"content": "b"}, {"settings": {"size_px": 8}}])
def test_another_content_or_setting_has_another_digest(tmp_path, change):
    assert make(tmp_path / "one").digest != make(tmp_path / "two", **change).digest


def test_the_digest_follows_the_inputs(tmp_path):
    first, second = make(tmp_path / "a"), make(tmp_path / "b", content="b")
    digests = {make(tmp_path / "out", inputs={"dataset": source}).digest for source in (first, second)}
    assert len(digests) == 2


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        artifacts.load(tmp_path, "dataset")


def test_another_kind_is_refused(tmp_path):
    make(tmp_path / "one")
    with pytest.raises(ArtifactError, match="is a dataset where a model is needed"):
        artifacts.load(tmp_path / "one", "model")


def test_a_changed_file_is_refused(tmp_path):
    make(tmp_path / "one")
    (tmp_path / "one" / "dataset.json").write_text("{} ")
    with pytest.raises(ArtifactError, match="was changed"):
        artifacts.load(tmp_path / "one", "dataset")


def test_a_changed_file_of_a_tree_is_refused(tmp_path):
    make(tmp_path / "one")
    (tmp_path / "one" / "files" / "cats" / "1.txt").write_text("z")
    artifacts.load(tmp_path / "one", "dataset")
    with pytest.raises(ArtifactError, match="was changed"):
        artifacts.load(tmp_path / "one", "dataset", verify_trees=True)


def test_a_manifest_that_was_edited_is_refused(tmp_path):
    make(tmp_path / "one")
    file = tmp_path / "one" / artifacts.MANIFEST
    content = json.loads(file.read_text())
    content["settings"] = {"seed": 1}
    file.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="was changed"):
        artifacts.load(tmp_path / "one", "dataset")


def test_a_missing_file_is_refused(tmp_path):
    make(tmp_path / "one")
    (tmp_path / "one" / "dataset.json").unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        artifacts.load(tmp_path / "one", "dataset")


def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(tmp_path):
    before = make(tmp_path / "one").digest
    with (
        pytest.raises(IsADirectoryError),
        artifacts.create(tmp_path / "one", kind="dataset", step="ingest", settings={}, inputs={}) as path,
    ):
        path.write_text("not a file")
    assert [entry.name for entry in tmp_path.iterdir()] == ["one"]
    assert artifacts.load(tmp_path / "one", "dataset").digest == before


def test_a_full_disk_is_a_storage_error_with_its_remedy(tmp_path):
    with (
        pytest.raises(StorageError, match="disk is full"),
        artifacts.create(tmp_path / "one", kind="dataset", step="ingest", settings={}, inputs={}),
    ):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))  # as the system does
    assert not list(tmp_path.iterdir())
