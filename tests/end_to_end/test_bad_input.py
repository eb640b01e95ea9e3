"""A user's mistake is one line that names it, exit code 2, and nothing half-written."""

import shutil
import sqlite3
import struct
import subprocess
import zipfile
import zlib
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.workspace import QUICK
from tests.golden.stored import SCHEMA_1
from tests.mounts import mounted


def make_images(folder, classes=("a", "b"), count=40):
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (9, 9), 40 * label + number).save(folder / name / f"{number}.png")


def no_such_folder(folder):
    return folder / "nowhere"


def empty_folder(folder):
    (folder / "empty").mkdir()
    return folder / "empty"


def one_class(folder):
    make_images(folder / "photos", classes=("only",))
    return folder / "photos"


def too_many_rejects(folder):
    make_images(folder / "photos")
    for number in range(11):
        (folder / "photos" / "a" / f"broken{number}.png").write_bytes(b"no image")
    return folder / "photos"


def bombs(folder):
    """Whole PNG files of 50 KB that would unpack to 400 million pixels."""
    make_images(folder / "photos")
    side = 20_000
    rows = zlib.compress(bytes(side * (1 + side // 8)), 9)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    for number in range(11):
        (folder / "photos" / "a" / f"bomb{number}.png").write_bytes(png)
    return folder / "photos"


def labels_without_files(folder):
    make_images(folder / "photos")
    (folder / "photos" / "labels.csv").write_text("path,label\na/0.png,a\nb/0.png,b\na/gone.png,a\n")
    return folder / "photos" / "labels.csv"


def files_without_labels(folder):
    make_images(folder / "photos")
    (folder / "photos" / "labels.csv").write_text("path,label\na/0.png,a\nb/0.png,b\n")
    return folder / "photos" / "labels.csv"


def duplicate_ids(folder):
    make_images(folder / "photos", count=2)
    rows = [f"same,{name}/{number}.png,{name}" for name in "ab" for number in range(2)]
    (folder / "photos" / "labels.csv").write_text("\n".join(["id,path,label", *rows]) + "\n")
    return folder / "photos" / "labels.csv"


def no_usual_column(folder):
    make_images(folder / "photos")
    (folder / "photos" / "list.csv").write_text("picture name;kind\na/0.png;a\nb/0.png;b\n")
    return folder / "photos" / "list.csv"


def a_folder_beside_splits(folder):
    for name in ("train", "test", "extra"):
        make_images(folder / "photos" / name)
    return folder / "photos"


def a_zip_that_leaves_its_folder(folder):
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        archive.writestr("../../evil.png", b"x")
    return folder / "photos.zip"


def dead_links(folder):
    make_images(folder / "photos")
    for number in range(11):
        (folder / "photos" / "a" / f"dead{number}.png").symlink_to("/nowhere")
    return folder / "photos"


def count_mismatch(folder):
    (folder / "arrays").mkdir()
    np.save(folder / "arrays" / "images.npy", np.zeros((5, 8, 8), np.uint8))
    np.save(folder / "arrays" / "labels.npy", np.zeros(4, np.int64))
    return folder / "arrays"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (no_such_folder, ["no such folder", "nowhere"]),
        (empty_folder, ["no files"]),
        (one_class, ["one class only", "two or more"]),
        (too_many_rejects, ["11", "max_rejects"]),
        (bombs, ["11", "max_rejects", "pixels"]),
        (labels_without_files, ["labels without a file", "a/gone.png"]),
        (files_without_labels, ["files without a label"]),
        (duplicate_ids, ["same", "id"]),
        (count_mismatch, ["5", "4"]),
        (no_usual_column, ["no column path", "--path-column", "picture name, kind"]),
        (a_folder_beside_splits, ["extra", "data.splits"]),
        (a_zip_that_leaves_its_folder, ["photos.zip", "evil.png", "outside"]),
        (dead_links, ["11", "max_rejects", "a link to nothing"]),
    ],
)
def test_a_source_that_cannot_be_used(workspace, make, words):
    """Step by step, which is what `gapgate run` does, without the seconds that a tracked run takes."""
    source = ("--set", f"data.source={make(workspace.folder)}")
    for step in ("ingest", "preprocess"):
        done = workspace.gapgate("step", step, *source)
        if done.returncode:
            break
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    for word in words:
        assert word in done.stderr
    assert not list(workspace.folder.glob("artifacts/*partial*"))
    assert not (workspace.folder / "artifacts" / "splits").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["run", "--set", "train.epochs=0"], "train.epochs=0 is below the limit 1"),
        (["run", "--set", "train.epoch=3"], "train.epoch is not a setting"),
        (["run", "--params", "nowhere.yaml"], "nowhere.yaml"),
        (["step", "bake"], "no step bake"),
        (["step", "train"], "run the step that makes it"),
        (["receipt", "123456"], "no receipt"),
        (["rollback"], "no champion"),
        (["serve"], "no champion"),
        (["ui"], "no runs yet"),
        (["data", "restore"], "data.dvc"),
        (["data", "add", "digits"], "git init"),
    ],
)
def test_a_command_that_cannot_be_done(new_workspace, arguments, word):
    done = new_workspace.gapgate(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_another_tools_settings_file_is_named(new_workspace):
    (new_workspace.folder / "params.yaml").write_text("prepare: {split: 0.2}\n")
    done = new_workspace.gapgate("run", "digits")
    assert done.returncode == 2
    assert "params.yaml has prepare" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_deleted_experiment_ends_a_run_before_its_first_step(workspace):
    with closing(sqlite3.connect(workspace.folder / ".gapgate" / "mlflow.db")) as store, store:
        store.execute("UPDATE experiments SET name = 'gapgate', lifecycle_stage = 'deleted'")
    done = workspace.gapgate("run", "digits")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "mlflow experiments restore --experiment-id 0" in done.stderr
    assert not (workspace.folder / ".gapgate" / "runs").exists()


def test_a_run_that_cannot_be_done_says_why_and_leaves_no_model(workspace):
    photos = workspace.folder / "photos"
    make_images(photos, classes=("only",))
    for arguments, word in (([photos], "one class only"), (["digits", "--set", "train.accelerator=cuda"], "cuda")):
        done = workspace.gapgate("run", *arguments, *QUICK)
        assert done.returncode == 2, done.stdout + done.stderr
        assert word in done.stdout
        assert "Traceback" not in done.stdout + done.stderr
    assert not list(workspace.folder.glob(".gapgate/runs/*/artifacts/*/train/model*"))


@pytest.fixture
def closed_disk(tmp_path):
    yield from mounted(tmp_path / "closed", "ro")


def test_a_place_that_may_not_be_written(workspace, closed_disk):
    done = workspace.gapgate("run", "digits", GAPGATE_HOME=str(closed_disk / "home"))
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert "read-only" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.fixture
def small_disk(tmp_path):
    yield from mounted(tmp_path / "disk", "size=2m")


def test_a_full_disk(workspace, small_disk):
    images = workspace.folder / "arrays"
    images.mkdir()
    np.save(images / "images.npy", np.random.default_rng(0).integers(0, 255, (4000, 28, 28), np.uint8))
    np.save(images / "labels.npy", np.arange(4000) % 2)
    done = workspace.gapgate("run", images, *QUICK, GAPGATE_HOME=str(small_disk / "home"))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "disk is full" in done.stdout + done.stderr
    assert not list(small_disk.glob("home/runs/*/artifacts/*/*/*partial*"))


@pytest.mark.parametrize(
    ("limit", "kib", "code", "words"),
    [("-f", 20, 2, "raise the limit (`ulimit -f`)"), ("-v", 1_500_000, 1, "not enough memory")],
)
def test_a_limit_of_the_shell_is_said_in_one_line(new_workspace, limit, kib, code, words):
    """A step alone: the file of images is the first that is larger; torch, which policies need, is the largest part."""
    step = "ingest" if limit == "-f" else "augment"
    shutil.copytree(SCHEMA_1 / "splits", new_workspace.folder / "artifacts" / "splits")
    command = new_workspace.command("step", step, "--set", "data.source=digits")
    done = subprocess.run(
        ["bash", "-c", f'ulimit {limit} {kib}; exec "$@"', "limited", *command],
        cwd=new_workspace.folder,
        env=new_workspace.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert [path.name for path in (new_workspace.folder / "artifacts").iterdir()] == ["splits"]


def test_a_home_of_somebody_else_is_one_line(workspace, closed_disk):
    home = closed_disk / "home"
    assert subprocess.run(["mount", "-o", "remount,rw", str(closed_disk)]).returncode == 0
    shutil.copytree(workspace.folder / ".gapgate", home)
    (home / "runs" / "r1" / "spool").mkdir(parents=True)
    (home / "runs" / "r1" / "alive.lock").touch()
    assert subprocess.run(["mount", "-o", "remount,ro", str(closed_disk)]).returncode == 0
    for command in (("run", "digits"), ("sync",), ("models",)):
        done = workspace.gapgate(*command, GAPGATE_HOME=str(home))
        assert done.returncode == 2, done.stdout + done.stderr
        assert "cannot use" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
