"""A user's mistake is one line that names it, exit code 2, and nothing half-written."""

import errno
import os
import subprocess
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.workspace import QUICK


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


def too_few_images(folder):
    make_images(folder / "photos", classes=("many", "other"))
    make_images(folder / "photos", classes=("few",), count=1)
    return folder / "photos"


def too_many_rejects(folder):
    make_images(folder / "photos")
    for number in range(11):
        (folder / "photos" / "a" / f"broken{number}.png").write_bytes(b"no image")
    return folder / "photos"


def bombs(folder):
    make_images(folder / "photos")
    header = b"\x00\x00\xea\x60\x00\x00\xea\x60\x08\x00\x00\x00\x00"  # 60,000 × 60,000 pixels
    chunk = b"IHDR" + header
    body = len(header).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    for number in range(11):
        (folder / "photos" / "a" / f"bomb{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
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
        (too_few_images, ["few", "stratify"]),
        (too_many_rejects, ["11", "max_rejects"]),
        (bombs, ["11", "max_rejects", "pixels"]),
        (labels_without_files, ["labels without a file", "a/gone.png"]),
        (files_without_labels, ["files without a label"]),
        (duplicate_ids, ["same", "id"]),
        (count_mismatch, ["5", "4"]),
    ],
)
def test_a_source_that_cannot_be_used(workspace, make, words):
    done = workspace.gapgate("run", make(workspace.folder), *QUICK)
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert "Traceback" not in said
    for word in words:
        assert word in said
    artifacts = workspace.folder.glob(".gapgate/runs/*/artifacts/**/*")
    assert not [path for path in artifacts if "partial" in path.name]
    assert not list(workspace.folder.glob(".gapgate/runs/*/artifacts/*/preprocess/splits"))


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
def test_a_command_that_cannot_be_done(workspace, arguments, word):
    done = workspace.gapgate(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (["train.accelerator=cuda"], "cuda"),
        (["train.batch_size=4096"], "exceeds the"),
        (
            ["train.architecture=[{type: conv, filters: 4, kernel: 9, padding: valid}, {type: dense}]"],
            "fit",
        ),
        (["train.architecture=resnet"], "resnet"),
        (["train.learning_rate=1e30", "train.warmup_fraction=0"], "not finite"),
    ],
)
def test_a_training_that_cannot_be_done(workspace, settings, word):
    done = workspace.gapgate("run", "digits", *QUICK, *(part for setting in settings for part in ("--set", setting)))
    assert done.returncode == 2, done.stdout + done.stderr
    assert word in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert not list(workspace.folder.glob(".gapgate/runs/*/artifacts/*/train/model*"))


def test_a_place_that_may_not_be_written(workspace):
    if os.geteuid() == 0:
        place = "/proc/gapgate"
    else:
        place = workspace.folder / "closed"
        place.mkdir(mode=0o500)
    done = workspace.gapgate("run", "digits", GAPGATE_HOME=str(place))
    assert done.returncode in (1, 2)
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if made.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(workspace, small_disk):
    images = workspace.folder / "arrays"
    images.mkdir()
    np.save(images / "images.npy", np.random.default_rng(0).integers(0, 255, (4000, 28, 28), np.uint8))
    np.save(images / "labels.npy", np.arange(4000) % 2)
    done = workspace.gapgate("run", images, *QUICK, GAPGATE_HOME=str(small_disk / "home"))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "disk is full" in done.stdout + done.stderr or os.strerror(errno.ENOSPC) in done.stdout
    assert not list(small_disk.glob("home/runs/*/artifacts/*/*/*partial*"))
