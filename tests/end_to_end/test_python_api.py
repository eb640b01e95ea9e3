"""`import gapgate`: a run and a packaged model, called from Python."""

import io
import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

import gapgate
from gapgate import artifacts
from gapgate.data.splits import Splits
from serving.run import serve
from tests.end_to_end.workspace import QUICK, ROOT

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # importing mlflow

SETTINGS = dict(setting.split("=") for setting in QUICK[1::2])
SETTINGS = {name: json.loads(value) if value[0] in "[0123456789" else value for name, value in SETTINGS.items()}


@pytest.fixture
def here(digits_run, monkeypatch):
    """The workspace of the run on digits, as that of this process."""
    workspace, _ = digits_run
    monkeypatch.setenv("GAPGATE_HOME", str(workspace.folder / ".gapgate"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.chdir(workspace.folder)
    return workspace


@pytest.fixture
def alone(workspace, monkeypatch):
    """An empty workspace, as that of this process."""
    monkeypatch.setenv("GAPGATE_HOME", str(workspace.folder / ".gapgate"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.chdir(workspace.folder)
    return workspace


@pytest.fixture
def digits(here):
    """(N, 8, 8, 1) uint8: test images."""
    splits = Splits.open(here.one("*/artifacts/*/preprocess/splits"))
    return np.asarray(splits.images[splits.rows("test")[:12]])


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0]).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_import_brings_nothing_that_takes_time():
    program = (
        "import sys; before = set(sys.modules); import gapgate; dir(gapgate)\n"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "['gapgate']", done.stderr


def test_what_is_exported_is_there_and_nothing_else():
    assert all(getattr(gapgate, name) for name in gapgate.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        gapgate.lod  # noqa: B018


def test_a_run_in_a_thread_gives_what_the_artifacts_say(alone):
    before, said, results = os.environ.copy(), [], []

    def run():
        results.append(gapgate.run("digits", settings=SETTINGS, name="from Python", experiment="api", show=said.append))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    (result,) = results
    assert (result.verdict, result.passed, result.exit_code, result.notice) == ("pass", True, 0, "")
    assert (result.model, result.version, result.alias) == ("gapgate", "1", "champion")
    outputs = alone.one(f"{result.name}/artifacts/*")
    evaluation = artifacts.read_json(outputs / "evaluate/evaluation/evaluation.json")
    for split in ("train", "val", "test"):
        figure, row = getattr(result, split), evaluation["accuracy"][split]
        assert (figure.value, figure.low, figure.high) == (row["value"], row["low"], row["high"])
    assert result.gap.value == evaluation["gap"]["points"]
    assert result.gap.low <= result.gap.value <= result.gap.high
    assert {check.verdict for check in result.checks} == {"pass"}
    assert result.receipt == artifacts.read_json(outputs / "register/registration/registration.json")["receipt"]
    assert result.receipt in result.report.read_text()
    assert [line.partition(":")[0] for line in said][-1] == "package"
    import mlflow

    run = mlflow.MlflowClient(f"sqlite:///{alone.folder}/.gapgate/mlflow.db").get_run(result.run_id)
    assert run.info.run_name == "from Python"
    # The next run of this process is another one's, and its model is no step of this one.
    assert os.environ.copy() == before
    assert gapgate.load(result.version).receipt == gapgate.load(result.bento).receipt == result.receipt


def test_a_gate_that_does_not_pass_is_a_result(alone):
    result = gapgate.run("digits", settings=SETTINGS | {"gate.max_gap_points": -50})
    assert (result.verdict, result.passed, result.exit_code) == ("fail", False, 3)
    assert (result.alias, result.bento) == ("", None)
    failed = [check for check in result.checks if check.verdict == "fail"]
    assert [check.name for check in failed] == ["max_gap_points"]
    assert "is wholly above the limit −50.0" in failed[0].reason
    with pytest.raises(gapgate.errors.GateError, match="version 1 has the verdict fail"):
        gapgate.load(result.version)


@pytest.mark.parametrize(
    ("source", "settings", "error"),
    [
        ("digits", {"train.epoch": 3}, gapgate.errors.SettingsError),
        ("digits", {"train.epochs": 0}, gapgate.errors.SettingsError),
        ("nowhere", {}, gapgate.errors.DataError),
        ("photos", {}, gapgate.errors.DataError),  # found by a step
    ],
)
def test_a_mistake_raises_the_line_of_the_command(alone, source, settings, error):
    (alone.folder / "photos" / "one").mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(alone.folder / "photos" / "one" / "1.png")
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    done = alone.gapgate("run", source, *options)
    with pytest.raises(error) as raised:
        gapgate.run(source, settings=settings)
    assert type(raised.value) is error
    assert raised.value.exit_code == done.returncode == 2
    assert "\n" not in str(raised.value)
    assert " ".join(str(raised.value).split()) in " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"source": 3}, "source=3 is of another type; give the path of a folder or file"),
        ({"source": b"digits"}, "source=b'digits' is of another type"),
        ({"settings": "train.epochs=3"}, "settings='train.epochs=3' is of another type; give a mapping such as"),
        ({"settings": [("train.epochs", 3)]}, r"settings=\[\('train.epochs', 3\)\] is of another type"),
        ({"params": {}}, "params={} is of another type; give the path of a settings file"),
        ({"name": None}, "name=None is of another type; give a text"),
        ({"experiment": 3}, "experiment=3 is of another type; give a text"),
        ({"show": "print"}, "show='print' is of another type; give a function such as print"),
    ],
)
def test_an_argument_of_another_type_is_named_before_anything_starts(alone, arguments, said):
    with pytest.raises(gapgate.errors.SettingsError, match=f"^{said}"):
        gapgate.run(**arguments)
    assert not list((alone.folder / ".gapgate").glob("runs/*"))


def test_two_runs_at_once_wait_for_each_other_also_beside_packages_of_our_names(alone):
    for name in ("components", "pipelines"):  # the steps' processes work in this folder
        (alone.folder / name).mkdir()
        (alone.folder / name / "__init__.py").write_text("")

    def show(line):
        raise OSError("the notebook was closed")

    def run(name):
        return gapgate.run("digits", settings=SETTINGS | {"train.epochs": 1}, name=name, show=show)

    with ThreadPoolExecutor(2) as pool, pytest.warns(RuntimeWarning, match="the notebook was closed.*went on without"):
        results = list(pool.map(run, ["one", "two"]))
    assert len({result.name for result in results}) == 2
    assert {result.exit_code for result in results} == {3}
    # The same settings on the same data: the second is known.
    assert results[0].receipt == results[1].receipt


def test_a_loaded_model_answers_as_the_service_does(here, digits, tmp_path):
    model = gapgate.load("models:/gapgate@champion")
    answers = model.predict([png(image) for image in digits])
    with serve(here.one("*/artifacts/*/package/bento/model.bento"), port=0, work_dir=tmp_path) as server:
        server.wait_ready()
        for image, answer in zip(digits, answers, strict=True):
            request = Request(f"{server.url}/v1/predict?top_k=10", png(image), {"Content-Type": "image/png"})
            with urlopen(request, timeout=60) as response:
                served = json.load(response)
            assert (answer.class_name, answer.receipt) == (served["class"], served["receipt"])
            assert dict(answer.probabilities) == pytest.approx(served["probabilities"], abs=1e-6)
            assert {"name": answer.model, "version": answer.version} == served["model"]
            # One image at a time is the same call of the network: the same bits.
            assert model.predict(png(image)).probabilities == served["probabilities"]


def test_every_kind_of_image_gives_one_answer(here, digits, tmp_path):
    model = gapgate.load("models:/gapgate/1")
    assert (model.name, model.version, model.image_shape) == ("gapgate", "1", (8, 8, 1))
    assert model.class_names == tuple("0123456789")
    image = digits[0]
    (tmp_path / "digit.png").write_bytes(png(image))
    picture = Image.open(tmp_path / "digit.png")
    wanted = model.predict(png(image))
    assert list(wanted.probabilities.values()) == sorted(wanted.probabilities.values(), reverse=True)
    for same in (image, image[:, :, 0], tmp_path / "digit.png", str(tmp_path / "digit.png"), picture):
        assert model.predict(same) == wanted
    assert [answer.class_name for answer in model.predict(digits)] == [
        model.predict(each).class_name for each in digits
    ]
    assert model.predict([]) == []


def test_a_pil_image_is_turned_as_its_file_is_and_stays_as_it_is(here, digits, tmp_path):
    model = gapgate.load()
    large = Image.fromarray(digits[1][:, :, 0]).resize((40, 56), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    large.save(tmp_path / "turned.png", exif=exif)
    deep = Image.fromarray(np.asarray(large).astype(np.uint16) * 16)
    deep.save(tmp_path / "deep.tiff", tiffinfo={281: 4095})  # the white of a camera of 12 bits
    for name in ("turned.png", "deep.tiff"):
        with Image.open(tmp_path / name) as picture:
            size, keys = picture.size, set(picture.info)
            assert model.predict(picture) == model.predict(tmp_path / name)
            assert (picture.size, set(picture.info)) == (size, keys)


@pytest.mark.parametrize(
    ("images", "error", "said"),
    [
        ("no.png", "DataError", "no.png: cannot be read: No such file or directory"),
        (b"no image", "ImageError", "not an image in one of the formats"),
        ([np.zeros((4, 4), np.uint8), b""], "ImageError", "image 1: the image is empty, 0 bytes"),
        ([3.5], "DataError", "image 0: an object of type float is no image; give a path"),
        (None, "DataError", "an object of type NoneType is no image; give a path"),
        ((image for image in [b""]), "DataError", "an object of type generator is no image"),
        ([[b""]], "DataError", "image 0: an object of type list is no image"),
        (np.zeros((8, 8)), "DataError", "an array of float64 with the shape (8, 8) is not an image"),
        (np.zeros((0,), np.uint8), "DataError", "an array of uint8 with the shape (0,) is not an image"),
        (np.array(3, np.uint8), "DataError", "an array of uint8 with the shape () is not an image"),
        (".", "DataError", ".: is a folder; give the files in it"),
        ("a\0b", "DataError", "a\\x00b: cannot be read: embedded null byte"),
    ],
)
def test_what_is_no_image_is_named(here, images, error, said):
    with pytest.raises(getattr(gapgate.errors, error), match=f"^{re.escape(said)}") as raised:
        gapgate.load().predict(images)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("models:/gapgate@nobody", "RegistryError", "gapgate has no alias nobody"),
        ("models:/gapgate/9", "RegistryError", r"gapgate has no version 9 \(known: 1\)"),
        (9, "RegistryError", "gapgate has no version 9"),
        ("models:/other@champion", "RegistryError", "other has no champion"),
        ("models:/gapgate", "SettingsError", "'models:/gapgate' names no registered model"),
        ("gapgate", "SettingsError", "'gapgate' names no model; give models:/NAME@ALIAS"),
        (Path("away.bento"), "ArtifactError", "away.bento is missing"),
        (None, "SettingsError", "^None names no model; give models:/NAME@ALIAS"),
        (3.5, "SettingsError", r"^3\.5 names no model"),
    ],
)
def test_what_names_no_model_is_named(here, source, error, said):
    with pytest.raises(getattr(gapgate.errors, error), match=said):
        gapgate.load(source)


def test_a_package_with_a_flipped_bit_is_refused(here, tmp_path):
    content = bytearray(here.one("*/artifacts/*/package/bento/model.bento").read_bytes())
    # In the model's package: of the rest of an archive nothing is read here.
    content[content.index(b'"verdict"', content.index(b"src/model/certificate.json")) + 1] ^= 1
    (tmp_path / "flipped.bento").write_bytes(content)
    with pytest.raises(gapgate.errors.ArtifactError, match=r"flipped\.bento: certificate\.json was changed"):
        gapgate.load(tmp_path / "flipped.bento")
