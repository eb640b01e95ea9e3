"""From a source to a Splits artifact's files: what is where, and what must never happen."""

import json
import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gapgate.data import decoding
from gapgate.data.formats import FORMATS, listed
from gapgate.data.preprocess import preprocess
from gapgate.data.sources import write_builtin
from gapgate.data.splits import SPLIT_NAMES
from gapgate.data.transform import Transform
from gapgate.errors import DataError, ImageError, ImageFault, StorageError
from gapgate.settings.sections import PreprocessSettings

FILES = [
    "contact_sheet.png", "dark", "images.npy", "index.parquet", "labels.npy",
    "near_duplicates.json", "near_duplicates.png", "splits.json", "test.npy", "train.npy", "transform.json", "val.npy",
]  # fmt: skip


class Runs:
    """Preprocesses the folder `data`; each run has its own output folder."""

    def __init__(self, root):
        self.root, self.data, self.count = root, root / "data", 0
        self.data.mkdir()

    def __call__(self, source=None, tracker=None, **options):
        self.count += 1
        self.out = self.root / f"out-{self.count}"
        self.out.mkdir()
        extra = {} if tracker is None else {"tracker": tracker}
        return preprocess(
            PreprocessSettings(**{"evidence": "holdout"} | options), source or self.data, self.out, **extra
        )


@pytest.fixture
def run(tmp_path):
    return Runs(tmp_path)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_builtin("digits", folder)
    return folder


def save_arrays(folder, images, labels, **more):
    for name, array in {"images": images, "labels": labels, **more}.items():
        np.save(folder / f"{name}.npy", array)


def noise(count, seed=0, shape=(8, 8)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def lines(splits):
    return pq.read_table(splits.path / "index.parquet").to_pylist()


def split_of(splits):
    return {line["id"]: line["split"] for line in lines(splits)}


def write_photos(folder, count=12, size=(20, 12)):
    for number in range(count):
        path = folder / f"{'ab'[number % 2]}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(1, number, (size[1], size[0], 3))[0]).save(path)


def test_digits_become_splits(digits, run):
    splits = run(digits)
    assert sorted(path.name for path in splits.path.iterdir()) == FILES
    assert splits.images.shape == (1797, 8, 8, 1)
    np.testing.assert_array_equal(splits.images[:, :, :, 0], np.load(digits / "images.npy"))
    np.testing.assert_array_equal(splits.labels, np.load(digits / "labels.npy"))
    assert splits.class_names == list("0123456789")
    rows = np.concatenate([splits.rows(name) for name in SPLIT_NAMES])
    assert sorted(rows.tolist()) == list(range(1797))
    counts = {name: len(splits.rows(name)) for name in SPLIT_NAMES}
    assert counts == {name: splits.info["counts"][name] for name in SPLIT_NAMES}
    assert counts["test"] == pytest.approx(0.25 * 1797, abs=60)
    assert counts["val"] == pytest.approx(0.1 * 0.75 * 1797, abs=40)


def test_mean_and_std_are_those_of_the_training_pixels(digits, run):
    splits = run(digits)
    pixels = splits.images[splits.rows("train")].astype(np.float64) / 255
    assert splits.info["mean"] == [round(float(pixels.mean()), 6)]
    assert splits.info["std"] == [round(float(pixels.std()), 6)]
    transform = Transform.from_file(splits.path / "transform.json")
    assert list(transform.mean) == splits.info["mean"]


def test_channels_have_their_own_mean_and_a_constant_one_has_std_1(run):
    images = noise(200, shape=(9, 9, 3))
    images[..., 2] = 51
    save_arrays(run.data, images, np.arange(200) % 2)
    splits = run()
    train = splits.images[splits.rows("train")] / 255
    np.testing.assert_allclose(splits.info["mean"], train.mean(axis=(0, 1, 2)), atol=1e-6)
    assert splits.info["mean"][2] == 0.2
    assert splits.info["std"][2] == 1.0


def test_real_fashion_mnist_keeps_its_test_split(fashion_subset, run):
    splits = run(fashion_subset, num_workers=2)
    assert splits.images.shape == (7000, 28, 28, 1)
    assert splits.info["given_splits"] == ["test", "train"]
    assert {split for name, split in split_of(splits).items() if name.startswith("test/")} == {"test"}
    assert len(splits.rows("val")) == pytest.approx(600, abs=80)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_output_is_the_same_bytes_twice_and_with_more_workers(run):
    save_arrays(run.data, noise(2200, shape=(12, 10, 3)), np.arange(2200) % 3)
    first = contents(run(num_workers=1).path)
    assert contents(run(num_workers=1).path) == first
    assert contents(run(num_workers=2).path) == first


@pytest.mark.parametrize(("num_workers", "expected"), [(3, 3), (0, 7)])
def test_as_many_processes_decode_as_are_named_or_may_be_used(run, monkeypatch, num_workers, expected):
    save_arrays(run.data, noise(40), np.arange(40) % 2)
    asked = []
    monkeypatch.setattr("gapgate.data.preprocess.available_cpus", lambda: 7)
    monkeypatch.setattr("gapgate.data.preprocess.prepare_workers", lambda images, workers: asked.append(workers))
    run(num_workers=num_workers)
    assert asked == [expected]


def test_progress_ends_with_all_images(run):
    class Progress:
        def __init__(self):
            self.calls = []

        def metrics(self, values, step=0): ...
        def params(self, values): ...
        def tags(self, values): ...
        def file(self, path, folder=""): ...

        def progress(self, done, total, unit, note=""):
            self.calls.append((done, total, unit))

    save_arrays(run.data, noise(100), np.arange(100) % 2)
    tracker = Progress()
    run(tracker=tracker)
    assert tracker.calls[-1] == (100, 100, "images")
    assert [done for done, _, _ in tracker.calls] == sorted(done for done, _, _ in tracker.calls)


# Size and mode


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((28, 28), (28, 28, 1)),
        ((224, 224, 3), (224, 224, 3)),
        ((225, 225), (64, 64, 1)),
        ((6, 6), (8, 8, 1)),
        ((20, 30, 3), (30, 30, 3)),
    ],
)
def test_auto_takes_the_size_and_mode_that_all_images_share(run, shape, expected):
    save_arrays(run.data, noise(12, shape=shape), np.arange(12) % 2)
    splits = run(network="scratch", stratify=True, test_fraction=0.3, val_fraction=0.3)
    assert splits.image_shape == expected


@pytest.mark.parametrize(
    ("shape", "network", "expected"),
    [
        ((40, 60, 3), "scratch", (60, 60, 3)),
        ((40, 80, 3), "scratch", (64, 64, 3)),
        ((41, 60, 3), "pretrained", (128, 128, 3)),
        ((64, 64), "scratch", (64, 64, 1)),
        ((65, 65), "pretrained", (128, 128, 1)),
        ((159, 200, 3), "pretrained", (128, 128, 3)),
        ((160, 200, 3), "pretrained", (224, 224, 3)),
    ],
)
def test_photos_are_prepared_for_a_pretrained_network_and_small_images_for_one_from_scratch(
    run, shape, network, expected
):
    save_arrays(run.data, noise(12, shape=shape), np.arange(12) % 2)
    splits = run(stratify=True, test_fraction=0.3, val_fraction=0.3)
    transform = Transform.from_file(splits.path / "transform.json")
    assert (splits.network, splits.image_shape) == (network, expected)
    of_network = {"scratch": ("pad", 0, "bilinear"), "pretrained": ("crop", 32, "bicubic")}
    assert (transform.fit, transform.margin_px, transform.resample) == of_network[network]


def test_auto_takes_colour_files_without_colour_as_gray(run):
    gray = noise(12)[..., None].repeat(3, axis=3)
    save_arrays(run.data, gray, np.arange(12) % 2)
    assert run(stratify=True, val_fraction=0.3).image_shape == (8, 8, 1)


def test_settings_decide_over_auto_and_never_change_the_split(run):
    write_photos(run.data, 80)
    plain = run()
    other = run(size_px=16, mode="gray", fit="crop", fill=200, resample="lanczos", num_workers=1)
    assert plain.image_shape == (20, 20, 3)
    assert other.image_shape == (16, 16, 1)
    assert split_of(plain) == split_of(other)


def test_files_and_arrays_of_the_same_pixels_have_the_same_hash(run, tmp_path):
    images = noise(20, shape=(8, 8, 3))
    save_arrays(run.data, images, np.arange(20) % 2)
    files = tmp_path / "files"
    for number, image in enumerate(images):
        path = files / str(number % 2) / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    options = {"stratify": True, "val_fraction": 0.3}
    arrays = {line["content_hash"]: line["split"] for line in lines(run(**options))}
    assert {line["content_hash"]: line["split"] for line in lines(run(files, **options))} == arrays


def test_another_salt_gives_another_split(digits, run):
    plain, salted = split_of(run(digits)), split_of(run(digits, salt="x"))
    assert sum(plain[name] != salted[name] for name in plain) > 400


def test_the_report_counts_and_names_duplicates(run):
    images = noise(60)
    images[59] = images[1]
    save_arrays(run.data, images, np.arange(60) % 2)
    splits = run(val_fraction=0.2)
    report = splits.info["duplicates"]
    assert report["within_split"] == splits.info["counts"]["duplicate"] == 1
    assert report["images"] == [{"name": "images/000059", "reason": "same pixels as images/000001"}]
    assert 59 not in np.concatenate([splits.rows(name) for name in SPLIT_NAMES])


# Images that cannot be used


def test_unreadable_images_are_quarantined_by_name_and_reason(run):
    write_photos(run.data, 60)
    whole = (run.data / "a" / "00.png").read_bytes()
    (run.data / "a" / "00.png").write_bytes(whole[: len(whole) // 2])
    (run.data / "b" / "01.png").write_bytes(b"nothing")
    Image.new("L", (101, 100)).save(run.data / "b" / "huge.png")
    splits = run(max_pixels=10_000, val_fraction=0.2, max_rejects=3)
    reasons = {entry["name"]: entry["reason"] for entry in splits.info["quarantined"]}
    assert reasons == {
        "a/00.png": "the image is truncated; copy the whole file again",
        "b/01.png": f"not an image in one of the formats {listed(FORMATS)}; save it as PNG or JPEG",
        "b/huge.png": "101 x 100 pixels exceed the limit of 10,000 pixels; "
        "make it smaller, or raise preprocess.max_pixels",
    }
    assert splits.info["counts"]["quarantined"] == 3
    for line in lines(splits):
        if line["id"] in reasons:
            assert (line["split"], line["content_hash"], line["width"]) == ("quarantined", "", 0)
            assert not splits.images[line["row"]].any()


def test_more_rejects_than_allowed_fail_and_leave_nothing_behind(run):
    write_photos(run.data, 12)
    for number in range(3):
        (run.data / "a" / f"x{number}.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"^3 images cannot be used, preprocess\.max_rejects=2: a/x0\.png \(not"):
        run(max_rejects=2)
    assert [path.name for path in run.out.iterdir()] == ["images.npy"]


# Errors


@pytest.mark.parametrize(
    ("readable", "left"), [((), "no image is left to train on"), (("a",), "images of one class alone are left")]
)
def test_images_that_leave_fewer_than_two_classes_to_train_on_are_refused_with_their_reasons(run, readable, left):
    for name in ("a", "b"):
        (run.data / name).mkdir()
        for number in range(4):
            if name in readable:
                Image.new("RGB", (20, 20), (60 * number, 0, 9)).save(run.data / name / f"{number}.png")
            else:
                (run.data / name / f"{number}.png").write_text("no image")
    with pytest.raises(DataError, match=rf"^{left}.*[ab]/0\.png \(not an image"):
        run()


def test_images_that_the_source_has_for_testing_alone_are_told_to_be_there(run):
    save_arrays(run.data, noise(6), np.array([0, 1] * 3), splits=np.array(["test"] * 5 + ["val"]))
    with pytest.raises(
        DataError, match=r"^no image is left to train on \(1 in val, 5 in test\), .*; add images to train$"
    ):
        run()


def test_a_class_that_is_missing_in_a_split_is_named(run):
    save_arrays(run.data, noise(50), np.array([0] * 48 + [1] * 2))
    with pytest.raises(
        DataError, match=r"class '1' has 0 images in \w+, preprocess\.min_class_images=1; add images of it"
    ):
        run(stratify=True, min_class_images=1)
    with pytest.raises(DataError, match=r"class '\d' has \d+ images in \w+, preprocess\.min_class_images=15"):
        run(min_class_images=15, test_fraction=0.5)


def test_a_class_of_one_image_stops_nothing_and_is_in_a_fold(run):
    save_arrays(run.data, noise(50), np.array([0] * 49 + [1]))
    splits = run(evidence="auto")
    assert splits.num_folds == 5
    assert sum(splits.info["class_counts"][split][1] for split in ("train", "val", "test")) == 1
    assert splits.folds()[49] >= 0


def test_an_id_that_occurs_twice_is_refused(run):
    write_photos(run.data / "photos", 4)
    rows = [f"photos/{'ab'[n % 2]}/{n:02d}.png,{'ab'[n % 2]},{n // 2}" for n in range(4)]
    (run.data / "t.csv").write_text("\n".join(["path,label,id", *rows]))
    with pytest.raises(DataError, match="2 ids occur more than once, first 0; give each image its own id"):
        run()


def test_class_folders_without_images_are_refused(run):
    for name in "ab":
        (run.data / name).mkdir()
    with pytest.raises(DataError, match="holds no images"):
        run()


def test_a_disk_that_is_too_small_is_found_before_the_work(run, monkeypatch):
    save_arrays(run.data, noise(50), np.arange(50) % 2)
    usage = shutil.disk_usage(run.data)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match=r"images\.npy needs 0\.0 GB and .* has 0\.0 GB free"):
        run()


def test_a_killed_worker_is_a_clear_error(run):
    decoder = decoding.Decoder(_Suicidal(), Transform(size_px=8, mode="gray"), run.data / "missing.npy", 0)
    (run.data / "missing.npy").write_bytes(b"")
    jobs = [(n, "") for n in range(100_000)]
    with pytest.raises(DataError, match="a decoding process was killed"):
        for _ in decoding.decode_all(decoder, jobs, len(jobs), 2):
            pass


class _Suicidal:
    """A reader that ends its process, if that is a worker."""

    def read(self, locator, max_pixels):
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.001)
        raise ImageError(ImageFault.UNREADABLE, "not here")


def test_splits_json_is_readable_on_its_own(digits, run):
    info = json.loads((run(digits).path / "splits.json").read_text())
    assert info["image_shape"] == [8, 8, 1]
    assert info["source_format"] == "NumPy"
    assert {name: sum(counts) for name, counts in info["class_counts"].items()} == {
        n: info["counts"][n] for n in SPLIT_NAMES
    }


def test_dark_drawings_among_others_are_named_with_the_remedy_that_shows_them(run):
    for label in "ab":
        (run.data / label).mkdir(parents=True)
        for number in range(15):
            drawn = np.zeros((8, 8, 4), np.uint8)
            drawn[..., :3] = 255 * (number % 3 == 0)
            drawn[..., 3] = noise(1, seed=number + ord(label))[0]
            Image.fromarray(drawn).save(run.data / label / f"{number}.png")
    (note,) = [note for note in run(val_fraction=0.2).info["notes"] if "plain colour" in note]
    assert " images, such as a/1.png, are one plain colour" in note
    assert note.endswith("set preprocess.fill=255")
    shutil.rmtree(run.out)
    run.out.mkdir()
    splits = run(val_fraction=0.2, fill=200)
    assert not [note for note in splits.info["notes"] if "plain colour" in note]


def test_formats_that_the_service_refuses_are_named(run):
    write_photos(run.data, 20)
    for number in range(3):
        Image.fromarray(noise(1, seed=99 + number, shape=(12, 20, 3))[0]).save(run.data / "a" / f"x{number}.tif")
    notes = run(val_fraction=0.2).info["notes"]
    assert (
        "3 images are TIFF files, which `gapgate serve` refuses unless GAPGATE_FORMATS=+tiff is set; `gapgate predict` "
        "takes them"
    ) in notes
