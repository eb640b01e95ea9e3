import errno
import hashlib
import json
import os
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

import gapgate
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


@pytest.mark.parametrize("field", ["code_revision", "image_digest", "run", "created_at", "record"])
def test_what_is_recorded_beside_the_digest_is_refused_when_it_was_edited(tmp_path, field):
    make(tmp_path / "one")
    file = tmp_path / "one" / artifacts.MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: "other"}))
    with pytest.raises(ArtifactError, match=r"manifest\.json was changed"):
        artifacts.read_manifest(tmp_path / "one")


def test_the_time_and_the_run_do_not_change_the_digest_but_the_record(tmp_path, monkeypatch):
    first = make(tmp_path / "one").manifest
    monkeypatch.setenv("GAPGATE_RUN", "run-7")
    second = make(tmp_path / "two").manifest
    assert first.digest == second.digest
    assert first.record != second.record


def test_a_manifest_from_before_there_was_a_record_is_read(tmp_path):
    make(tmp_path / "one")
    edited(tmp_path / "one", record="")
    artifacts.load(tmp_path / "one", "dataset")


@pytest.mark.parametrize("name", ["more.json", "sub/more.json", "dead"])
def test_a_file_that_was_added_is_refused(tmp_path, name):
    make(tmp_path / "one")
    place = tmp_path / "one" / name
    place.parent.mkdir(exist_ok=True)
    place.symlink_to("nowhere") if name == "dead" else place.write_text("{}")
    with pytest.raises(ArtifactError, match=f"{name} was added later; remove it"):
        artifacts.load(tmp_path / "one", "dataset")


@pytest.mark.parametrize("name", ["files/cats/2.txt", "files/dogs/1.txt", "files/dogs"])
def test_a_file_or_an_empty_folder_that_was_added_to_a_tree_is_refused(tmp_path, name):
    make(tmp_path / "one")
    place = tmp_path / "one" / name
    (place.parent if place.suffix else place).mkdir(exist_ok=True)
    if place.suffix:
        place.write_text("z")
    with pytest.raises(ArtifactError, match=f"{name} was added later"):
        artifacts.load(tmp_path / "one", "dataset", verify_trees=True)


def test_the_files_that_systems_leave_in_folders_do_not_matter(tmp_path):
    make(tmp_path / "one")
    for name in (".DS_Store", "files/cats/Thumbs.db", "files/@eaDir/1.txt"):
        (tmp_path / "one" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "one" / name).write_text("")
    artifacts.load(tmp_path / "one", "dataset", verify_trees=True)


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


def edited(folder, **fields):
    """Change fields of a manifest and give it the digest that fits them, as only a forger or another version would."""
    file = folder / artifacts.MANIFEST
    content = json.loads(file.read_text()) | fields
    names = ("kind", "schema_version", "step", "settings", "inputs", "files", "trees")
    content["digest"] = artifacts.digest_of({name: content[name] for name in names})
    if content["record"]:
        content["record"] = artifacts.record_of(artifacts.Manifest.model_validate(content))
    file.write_text(json.dumps(content))


def test_the_manifest_says_what_the_artifact_is_of(tmp_path, monkeypatch):
    monkeypatch.setenv("GAPGATE_IMAGE_DIGEST", "sha256:image")
    monkeypatch.setenv("GAPGATE_RUN", "run-7")
    source = make(tmp_path / "source")
    manifest = make(tmp_path / "one", settings={"size_px": 8}, inputs={"b": source, "a": source}).manifest
    listing = f"{hashlib.sha256(b'a').hexdigest()}  files/cats/1.txt\n"
    assert (tmp_path / "one/files.sha256").read_text() == listing
    content = {
        "kind": "dataset",
        "schema_version": 1,
        "step": "ingest",
        "settings": {"size_px": 8},
        "inputs": {"a": source.digest, "b": source.digest},
        "files": {
            "dataset.json": hashlib.sha256(b"{}").hexdigest(),
            "files.sha256": hashlib.sha256(listing.encode()).hexdigest(),
        },
        "trees": ["files"],
    }
    assert manifest.model_dump(mode="json", include=set(content)) == content
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert manifest.digest == "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    assert (manifest.image_digest, manifest.run) == ("sha256:image", "run-7")
    assert manifest.code_revision == artifacts.code_revision()
    rest = {"digest", "code_revision", "image_digest", "run", "created_at"}
    assert manifest.record == artifacts.digest_of(content | manifest.model_dump(include=rest))
    assert abs(datetime.now(UTC) - datetime.fromisoformat(manifest.created_at)) < timedelta(minutes=5)
    assert (tmp_path / "one" / artifacts.MANIFEST).read_text().startswith('{\n  "kind": "dataset",\n')


def test_a_file_beside_the_tree_whose_name_begins_like_it_is_in_the_manifest(tmp_path):
    with artifacts.create(tmp_path / "one", kind="k", step="s", settings={}, inputs={}, trees=("files",)) as path:
        (path / "files/b").mkdir(parents=True)
        (path / "files/b/2").write_text("2")
        (path / "files/b/1").write_text("1")
        (path / "files/a").write_text("a")
        (path / "other/files").mkdir(parents=True)
        (path / "other/files/3").write_text("3")
    assert sorted(artifacts.load(tmp_path / "one", "k").manifest.files) == ["files.sha256", "other/files/3"]
    names = [line.split("  ")[1] for line in (tmp_path / "one/files.sha256").read_text().splitlines()]
    assert names == ["files/a", "files/b/1", "files/b/2"]


def test_what_was_there_before_is_replaced_whole(tmp_path):
    make(tmp_path / "one")
    (tmp_path / "one/more.txt").write_text("old")
    (tmp_path / f".one.partial-{os.getpid()}").mkdir()  # of a process that was killed, with the same number
    make(tmp_path / "one", content="b")
    assert not (tmp_path / "one/more.txt").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["one"]


def test_an_artifact_of_another_schema_is_refused(tmp_path):
    make(tmp_path / "one")
    edited(tmp_path / "one", schema_version=2)
    with pytest.raises(ArtifactError, match="has schema version 2, this is 1; run the step again"):
        artifacts.load(tmp_path / "one", "dataset")


@pytest.mark.parametrize("text", ["", "{}", "not json", "\udcff"])
def test_a_file_that_is_no_manifest_is_refused(tmp_path, text):
    make(tmp_path / "one")
    (tmp_path / "one" / artifacts.MANIFEST).write_bytes(os.fsencode(text))
    with pytest.raises(ArtifactError, match=r"manifest\.json is not a manifest \(.+\); run the step again"):
        artifacts.load(tmp_path / "one", "dataset")


def test_a_manifest_with_a_field_too_many_is_refused_and_a_manifest_is_frozen(tmp_path):
    manifest = make(tmp_path / "one").manifest
    with pytest.raises(ValidationError, match="frozen"):
        manifest.kind = "model"
    content = json.loads((tmp_path / "one" / artifacts.MANIFEST).read_text())
    (tmp_path / "one" / artifacts.MANIFEST).write_text(json.dumps({**content, "note": ""}))
    with pytest.raises(ArtifactError, match="Extra inputs"):
        artifacts.load(tmp_path / "one", "dataset")


def test_an_artifact_is_frozen_and_reads_its_json(tmp_path):
    artifact = make(tmp_path / "one")
    assert artifact.read_json("dataset.json") == {}
    with pytest.raises(AttributeError):
        artifact.path = tmp_path


def test_a_missing_file_of_a_tree_is_refused(tmp_path):
    make(tmp_path / "one")
    (tmp_path / "one/files/cats/1.txt").unlink()
    with pytest.raises(ArtifactError, match=r"1\.txt is missing"):
        artifacts.load(tmp_path / "one", "dataset", verify_trees=True)


# Lineage


def model_of(folder, source, **settings):
    with artifacts.create(folder, kind="model", step="train", settings=settings, inputs={"dataset": source}) as path:
        artifacts.write_json(path / artifacts.LINEAGE, artifacts.lineage({"dataset": source}))
    return artifacts.load(folder, "model")


def test_a_lineage_holds_every_artifact_behind_those_given(tmp_path):
    source = make(tmp_path / "source")
    model = model_of(tmp_path / "model", source)
    entries = artifacts.lineage({"model": model})
    assert {kind: entry["digest"] for kind, entry in entries.items()} == {
        "dataset": source.digest,
        "model": model.digest,
    }
    assert set(entries["model"]) == {
        "kind", "schema_version", "step", "settings", "inputs", "files", "trees", "digest"
    }  # fmt: skip


def test_a_lineage_whose_entry_was_changed_is_refused(tmp_path):
    entries = artifacts.lineage({"model": model_of(tmp_path / "model", make(tmp_path / "source"))})
    entries["dataset"]["settings"] = {"size_px": 9}
    with pytest.raises(ArtifactError, match="the lineage of the dataset was changed since it was written"):
        artifacts.check_lineage(entries)


def test_a_lineage_with_a_link_missing_is_refused(tmp_path):
    source = make(tmp_path / "source")
    entries = artifacts.lineage({"model": model_of(tmp_path / "model", source)})
    del entries["dataset"]
    with pytest.raises(ArtifactError, match=f"the model is of the dataset {source.digest}, whose lineage is missing"):
        artifacts.check_lineage(entries)


def test_a_lineage_of_two_datasets_is_refused(tmp_path):
    first, second = make(tmp_path / "a"), make(tmp_path / "b", content="b")
    model = model_of(tmp_path / "model", first)
    message = f"the model is of the dataset {first.digest}, not of {second.digest}; run train again"
    with pytest.raises(ArtifactError, match=message):
        artifacts.lineage({"dataset": second, "model": model})


# Digests and files


def test_a_digest_is_the_sha256_of_compact_json_with_sorted_keys():
    text = '{"a":[1,2.5,null],"ß":"ä"}'
    expected = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    assert artifacts.digest_of({"ß": "ä", "a": [1, 2.5, None]}) == expected
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifacts.digest_of({"a": float("nan")})


def test_json_is_written_sorted_readable_and_with_a_last_line_break(tmp_path):
    artifacts.write_json(tmp_path / "a.json", {"b": "ä", "a": [1]})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": [\n    1\n  ],\n  "b": "ä"\n}\n'
    assert artifacts.read_json(tmp_path / "a.json") == {"a": [1], "b": "ä"}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    artifacts.write_text(tmp_path / "a", "old")
    with pytest.raises(TypeError):
        artifacts.write_text(tmp_path / "a", 5)
    assert (tmp_path / "a").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_text_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def note_and_sync(descriptor):
        synced.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size, (tmp_path / "a").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note_and_sync)
    artifacts.write_text(tmp_path / "a", "four")
    assert synced == [((tmp_path / "a").stat().st_ino, 4, False)]


def test_a_json_file_that_is_not_there_is_the_default_where_one_is_given(tmp_path):
    assert artifacts.read_json(tmp_path / "a.json", []) == []
    assert artifacts.read_json(tmp_path / "a.json", None) is None
    with pytest.raises(FileNotFoundError):
        artifacts.read_json(tmp_path / "a.json")
    artifacts.write_json(tmp_path / "a.json", {"a": 1})
    assert artifacts.read_json(tmp_path / "a.json", []) == {"a": 1}


def test_a_file_that_is_not_json_is_refused_even_where_there_is_a_default(tmp_path):
    (tmp_path / "a.json").write_text("{")
    for default in ((), (None,)):
        with pytest.raises(ArtifactError, match=r"a\.json is not JSON \(.+\); run the step that makes it again"):
            artifacts.read_json(tmp_path / "a.json", *default)


# The code's revision


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that Gapgate seems to be installed from; the revision is asked anew."""
    (tmp_path / "gapgate").mkdir()
    (tmp_path / "gapgate/__init__.py").write_text("")
    monkeypatch.setattr(gapgate, "__file__", str(tmp_path / "gapgate/__init__.py"))
    monkeypatch.delenv("GAPGATE_CODE_REVISION", raising=False)
    artifacts.code_revision.cache_clear()
    yield tmp_path
    artifacts.code_revision.cache_clear()


def git(folder, *arguments):
    name = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    return subprocess.run(
        ["git", "-C", str(folder), *name, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_code_revision_is_the_commit_and_says_whether_tracked_files_differ(checkout):
    git(checkout, "init", "-q")
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "first")
    head = git(checkout, "rev-parse", "HEAD")
    (checkout / "untracked").write_text("")
    assert artifacts.code_revision() == head
    (checkout / "gapgate/__init__.py").write_text("changed")
    assert artifacts.code_revision() == head  # asked once in a process
    artifacts.code_revision.cache_clear()
    assert artifacts.code_revision() == f"{head}+dirty"


def test_without_a_commit_the_code_revision_is_the_version(checkout):
    assert artifacts.code_revision() == f"gapgate {gapgate.__version__}"
    git(checkout, "init", "-q")
    artifacts.code_revision.cache_clear()
    assert artifacts.code_revision() == f"gapgate {gapgate.__version__}"


def test_the_environment_may_name_the_code_revision(checkout, monkeypatch):
    monkeypatch.setenv("GAPGATE_CODE_REVISION", "abc")
    assert artifacts.code_revision() == "abc"


def test_the_folder_of_an_artifact_is_made_with_those_above_it(tmp_path):
    assert make(tmp_path / "run" / "7" / "one").path.is_dir()


def test_what_is_wrong_with_a_manifest_is_the_first_thing_found(tmp_path):
    make(tmp_path / "one")
    (tmp_path / "one" / artifacts.MANIFEST).write_text('{"kind": 5}')  # and every other field is missing
    with pytest.raises(ArtifactError, match="Input should be a valid string"):
        artifacts.load(tmp_path / "one", "dataset")


def test_a_file_of_a_tree_may_have_spaces_in_its_name(tmp_path):
    with artifacts.create(tmp_path / "one", kind="k", step="s", settings={}, inputs={}, trees=("files",)) as path:
        (path / "files").mkdir()
        (path / "files/a  b  c.txt").write_text("a")
    assert artifacts.load(tmp_path / "one", "k", verify_trees=True)
