"""`gapgate look` and `gapgate similar`, as a user calls them."""

import re
import shutil
import subprocess
import sys
from io import BytesIO

import numpy as np
import onnx
import pytest
import torch
import typer
from PIL import Image

from cli.look import look, similar
from gapgate.errors import GapgateError
from gapgate.network import architecture, modules
from gapgate.network.export import export_onnx
from gapgate.onnx.occlusion import heat_png
from gapgate.report.tour.convolution import KERNELS
from gapgate.report.tour.tour import gray_image, with_kernel
from serving.model.predictor import Predictor
from tests.end_to_end.workspace import Workspace
from tests.serving import packaged
from tests.serving.packaged import CLASS_NAMES, SIZE_PX, picture

app = typer.Typer()
app.command()(look)
app.command()(similar)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The folder of a packaged convolutional network, untrained, with its index."""
    root = tmp_path_factory.mktemp("packaged")
    torch.manual_seed(0)
    shape = (SIZE_PX, SIZE_PX, 1)
    layers = architecture.resolve("tutorial", shape, len(CLASS_NAMES))
    export_onnx(modules.build(layers, shape, len(CLASS_NAMES)), shape, [0.5], [0.25], root / "model.onnx")
    return packaged.folder(root, model=onnx.load(root / "model.onnx"))


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    path.write_bytes(picture(200, 100, seed=4))
    return path


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """A command in an empty folder without champions: exit code, and what is printed or said in one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("GAPGATE_HOME", str(tmp_path / ".gapgate"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # MLflow itself sets it; this is undone

    def gapgate(*arguments):
        try:
            app([str(argument) for argument in arguments], standalone_mode=False)
        except GapgateError as error:
            return error.exit_code, str(error)
        return 0, capsys.readouterr().out

    return gapgate


def is_whole(page):
    """It asks nobody for anything: pictures as data URIs, no script."""
    links = re.findall(r'(?:src|href|srcset)="([^"]*)"', page)
    assert links
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert not re.search(r"<script|url\(|@import|https?://", page)
    assert "prefers-color-scheme: dark" in page
    return True


def test_without_a_champion_the_edge_kernel_is_shown_stage_by_stage_with_sizes(call, photo, tmp_path):
    code, printed = call("look", photo, "--out", "found")
    assert code == 0
    assert "gapgate has no champion yet" in printed
    for size in ("64×128×1", "62×126×1", "31×63×1", "(128 − 3) / 1 + 1 = 126", "(62 − 2) / 2 + 1 = 31"):
        assert size in printed
    assert {path.name for path in (tmp_path / "found").iterdir()} == {"look.html", "stages.png", "kernel.png"}
    page = (tmp_path / "found" / "look.html").read_text()
    assert is_whole(page)
    assert "What the kernel edge makes of it" in page
    assert "width (128 − 3) / 1 + 1 = 126" in page


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_is_drawn(call, photo, kernel, tmp_path):
    code, printed = call("look", photo, "--kernel", kernel)
    assert code == 0
    assert f"the kernel {kernel} slid over the image" in printed
    with Image.open(tmp_path / "look" / "stages.png") as image:
        assert image.width > 600


def test_equal_images_give_equal_bytes(photo, tmp_path):
    plane = gray_image(photo.read_bytes())
    for folder in ("a", "b"):
        stages = with_kernel(plane, "sobel-x", tmp_path / folder, "photo")
    assert [stage.shape for stage in stages] == [(64, 128, 1), (62, 126, 1), (62, 126, 1), (31, 63, 1)]
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_package_gives_its_networks_input_to_a_kernel_too(call, photo, package):
    code, printed = call("look", photo, "--kernel", "blur", "--bento", package)
    assert code == 0
    assert f"{SIZE_PX}×{SIZE_PX}×1" in printed
    assert "champion" not in printed


def test_a_networks_layers_are_shown_with_sizes_and_weights(call, photo, package, tmp_path):
    code, printed = call("look", photo, "--bento", package)
    assert code == 0
    rows = {line.split("  ")[0].strip(): line for line in printed.splitlines()}
    assert "32 filters of 3×3×1" in rows["1 convolution"]
    assert rows["1 convolution"].split()[-2:] == [f"{SIZE_PX}×{SIZE_PX}×32", "320"]
    assert rows["6 ReLU"].split()[-1] == "4×4×64"
    assert rows["in all"].split()[-1] == f"{320 + 18_496 + 1024 * 128 + 128 + 129 * 7:,}"
    assert re.search(r"digits version 3 says \w+, \d+\.\d % sure", printed)
    assert {path.name for path in (tmp_path / "look").iterdir()} == {"look.html", "filters.png", "feature_maps.png"}
    assert is_whole((tmp_path / "look" / "look.html").read_text())


def test_the_number_of_layers_drawn_can_be_chosen(call, photo, package, tmp_path):
    heights = []
    for count in (2, 4):
        assert call("look", photo, "--bento", package, "--layers", count)[0] == 0
        with Image.open(tmp_path / "look" / "feature_maps.png") as image:
            heights.append(image.height)
    assert heights[0] < heights[1]


def test_mistakes_of_look_are_one_line(call, photo, package, tmp_path):
    (tmp_path / "none.png").write_bytes(b"no image")
    (tmp_path / "tiny.png").write_bytes(picture(3, 9))
    (tmp_path / "empty").mkdir()
    dense = packaged.folder(tmp_path / "dense")
    for arguments, said in (
        (("nowhere.png",), "no such file: nowhere.png"),
        (("empty",), "empty is a folder; name one image file"),
        (("none.png",), "none.png: not an image in one of the formats"),
        (("none.png", "--bento", package), "none.png: not an image in one of the formats"),
        (("tiny.png",), "an image of 9×3 pixels is too small; take one of 4×4 or more"),
        ((photo, "--kernel", "laplace"), "no kernel laplace; take learned or one of identity, edge, outline, sharpen"),
        ((photo, "--kernel", "learned"), "gapgate has no champion; `gapgate run` makes one when the gate passes; or"),
        ((photo, "--kernel", "edge", "--layers", 2), "--layers 2 is of --kernel learned"),
        ((photo, "--bento", "empty"), "empty holds no package"),
        ((photo, "--bento", "nowhere.bento"), "nowhere.bento is missing"),
        ((photo, "--bento", dense), "the network has no convolution to look at; name a kernel, such as --kernel edge"),
        ((photo, "--out", photo), "is a file; name a folder"),
    ):
        code, printed = call("look", *arguments)
        assert code == 2, arguments
        assert said in printed
        assert "\n" not in printed
    assert not (tmp_path / "look").exists()


def training_image(package, row):
    """A training image of a package as a file's content, and its label."""
    splits = package.parent / "inputs" / "splits"
    images, rows = np.load(splits / "images.npy"), np.load(splits / "train.npy")
    stream = BytesIO()
    Image.fromarray(images[rows[row]].squeeze()).save(stream, "PNG")
    return stream.getvalue(), CLASS_NAMES[np.load(splits / "labels.npy")[rows[row]]]


def test_a_training_image_is_its_own_nearest_with_its_label(call, package, tmp_path):
    data, label = training_image(package, 5)
    (tmp_path / "known.png").write_bytes(data)
    code, printed = call("similar", "known.png", "--k", 3, "--bento", package)
    assert code == 0
    lines = [line.split() for line in printed.splitlines()[2:]]
    assert [line[0] for line in lines] == ["1", "2", "3"]
    assert lines[0][2:] == [label, "1.0000", "0.0000"]
    assert sorted(float(line[-1]) for line in lines) == [float(line[-1]) for line in lines]
    assert not list(tmp_path.glob("*/*.png"))


def test_the_sheet_and_the_heat_of_the_answer_are_written(call, photo, package, tmp_path):
    code, printed = call("similar", photo, "--bento", package, "--out", "found")
    assert code == 0
    assert "similar.png and heat.png are in found" in printed
    predictor = Predictor.load(package)
    pixels = predictor.transform.decode(photo.read_bytes())
    name, _ = predictor.class_of(pixels)
    heat = predictor.heat(pixels, name, lambda: False)
    assert (tmp_path / "found" / "heat.png").read_bytes() == heat_png(pixels, heat)
    with Image.open(tmp_path / "found" / "similar.png") as image:
        assert image.width > image.height > 200


def test_mistakes_of_similar_are_one_line(call, photo, tmp_path):
    bare = packaged.folder(tmp_path / "bare", similar_images=0)
    for arguments, said in (
        ((photo,), "no champion"),
        (("nowhere.png", "--bento", bare), "no such file: nowhere.png"),
        ((photo, "--bento", bare), "the package of digits version 3 holds no training images"),
    ):
        code, printed = call("similar", *arguments)
        assert code == 2, arguments
        assert said in printed
        assert "\n" not in printed


def test_the_champion_answers_from_its_bento_and_a_mistake_has_exit_code_2(tmp_path, photo, empty_store):
    workspace = Workspace(tmp_path).with_store(empty_store)
    code = "from tests.cli import registered as r; r.register('r1', r.packaged.linear_model())"
    registered = subprocess.run(
        [sys.executable, "-c", code], env=workspace.environment(), capture_output=True, text=True
    )
    assert registered.returncode == 0, registered.stderr
    shutil.copyfile(photo, tmp_path / "photo.png")
    done = workspace.gapgate("similar", "photo.png", "--k", 2)
    assert done.returncode == 0, done.stderr
    assert re.search(r"photo.png is \w+, \d+\.\d % sure \(gapgate version 1\)", done.stdout)
    done = workspace.gapgate("look", "photo.png", "--kernel", "nothing")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def test_a_package_is_looked_at_without_torch_or_a_platform(package, photo, tmp_path):
    code = (
        "import sys\n"
        "from cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'mlflow', 'kfp', 'bentoml', 'dvc'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    for command in ("look", "similar"):
        arguments = [command, str(photo), "--bento", str(package), "--out", str(tmp_path / command)]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
