"""Golden images, with real ONNX models and real picture files."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from gapgate.data.transform import Transform
from gapgate.errors import ArtifactError
from gapgate.evidence.sealed.golden import check_golden, write_golden
from gapgate.onnx.classifier import Classifier
from tests.gapgate.onnx_models import write_cnn, write_linear

GRAY, COLOUR = Transform(size_px=28, mode="gray"), Transform(size_px=24, mode="rgb", fit="crop", resample="lanczos")
NAMES = {
    "alpha.png",
    "cmyk.jpg",
    "display-p3.jpg",
    "gray16.png",
    "odd.png",
    "orientation.jpg",
    "palette.png",
    "picture.webp",
}
NUM_CLASSES = 10


def model(path: Path, transform: Transform, seed: int = 0) -> Classifier:
    shape = (transform.size_px, transform.size_px, transform.channels)
    rng = np.random.default_rng(seed)
    write_linear(path, rng.normal(size=(int(np.prod(shape)), NUM_CLASSES)), rng.normal(size=NUM_CLASSES), shape)
    return Classifier.load(path)


def opened(path: Path) -> Image.Image:
    return Image.open(BytesIO(path.read_bytes()))


@pytest.fixture
def package(tmp_path: Path) -> tuple[Path, Classifier]:
    """A folder with the golden images of a gray model, and the model."""
    classifier = model(tmp_path / "model.onnx", GRAY)
    write_golden(tmp_path, GRAY, classifier)
    return tmp_path, classifier


@pytest.mark.parametrize("transform", [GRAY, COLOUR, Transform(size_px=8, mode="gray", fill=255)])
def test_a_package_passes_its_own_golden_images(tmp_path: Path, transform: Transform) -> None:
    classifier = model(tmp_path / "model.onnx", transform)
    write_golden(tmp_path, transform, classifier)
    check_golden(tmp_path, transform, classifier, tolerance=0.0)


@pytest.mark.parametrize("scale", [1.0, 15.0])
def test_a_logit_may_differ_by_a_ten_thousandth_of_the_largest_or_of_1(tmp_path: Path, scale: float) -> None:
    write_linear(tmp_path / "model.onnx", np.zeros((28 * 28, 3)), np.array([0.1, -scale, 0.2]), (28, 28, 1))
    classifier = Classifier.load(tmp_path / "model.onnx")
    write_golden(tmp_path, GRAY, classifier)
    listing = tmp_path / "golden" / "golden.json"
    lines = json.loads(listing.read_text())
    stored = lines[2]["logits"][0]
    lines[2]["logits"][0] = stored + 0.9e-4 * scale
    listing.write_text(json.dumps(lines))
    check_golden(tmp_path, GRAY, classifier)
    lines[2]["logits"][0] = stored + 1.1e-4 * scale
    listing.write_text(json.dumps(lines))
    found = rf"golden image {lines[2]['file']}: logits differ by {1.1e-4 * scale:.3g}, more than {1e-4 * scale:.3g}; "
    with pytest.raises(ArtifactError, match=found):
        check_golden(tmp_path, GRAY, classifier)


def test_the_pictures_are_of_the_kinds_that_clients_send(package: tuple[Path, Classifier]) -> None:
    folder = package[0] / "golden"
    lines = json.loads((folder / "golden.json").read_text())
    assert {line["file"] for line in lines} == NAMES == {path.name for path in folder.iterdir()} - {"golden.json"}
    assert all(len(line["logits"]) == NUM_CLASSES for line in lines)
    pictures = {line["file"]: opened(folder / line["file"]) for line in lines}
    assert {line["file"]: line["content_type"] for line in lines} == {
        name: picture.get_format_mimetype() for name, picture in pictures.items()
    }
    assert pictures["orientation.jpg"].getexif()[0x0112] == 6
    assert pictures["palette.png"].mode == "P"
    for name in ("palette.png", "alpha.png"):
        opacity = np.asarray(pictures[name].convert("RGBA"))[:, :, 3]
        assert opacity.min() == 0
        assert opacity.max() == 255
    assert pictures["cmyk.jpg"].mode == "CMYK"
    assert pictures["gray16.png"].mode.startswith("I")
    assert np.ptp(np.asarray(pictures["gray16.png"])) > 20_000
    assert pictures["odd.png"].size == (27, 17)


def ignore_orientation(path: Path) -> Image.Image:
    return opened(path)


def ignore_transparency(path: Path) -> Image.Image:
    return opened(path).convert("RGBA").convert("RGB")


def clip_to_eight_bits(path: Path) -> Image.Image:
    return Image.fromarray(np.asarray(opened(path)).clip(0, 255).astype(np.uint8))


def invert_inks(path: Path) -> Image.Image:
    return ImageOps.invert(opened(path).convert("RGB"))


def stretch(path: Path) -> Image.Image:
    return opened(path).resize((28, 28))


def lose_the_last_row(path: Path) -> Image.Image:
    picture = opened(path)
    return picture.crop((0, 0, picture.width, picture.height - 1))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("orientation.jpg", ignore_orientation),
        ("palette.png", ignore_transparency),
        ("alpha.png", ignore_transparency),
        ("gray16.png", clip_to_eight_bits),
        ("cmyk.jpg", invert_inks),
        ("odd.png", stretch),
        ("picture.webp", lose_the_last_row),
    ],
)
def test_each_picture_finds_the_decoder_that_reads_its_kind_wrongly(
    package: tuple[Path, Classifier], name: str, wrong: Callable[[Path], Image.Image]
) -> None:
    """What such a decoder would see is put in the picture's place, without loss."""
    folder, classifier = package
    wrong(folder / "golden" / name).save(folder / "golden" / name, "PNG")
    with pytest.raises(ArtifactError, match=rf"golden image {name}: logits differ by [\d.e+]+, more than [\d.e+-]+; "):
        check_golden(folder, GRAY, classifier)


def test_another_transform_is_found(package: tuple[Path, Classifier]) -> None:
    folder, classifier = package
    for change in ({"fill": 1}, {"fit": "crop"}, {"resample": "bicubic"}):
        with pytest.raises(ArtifactError, match="golden image"):
            check_golden(folder, GRAY.model_copy(update=change), classifier)


def test_another_model_is_found_and_the_tolerance_is_what_is_allowed(package: tuple[Path, Classifier]) -> None:
    folder, _ = package
    other = model(folder / "other.onnx", GRAY, seed=1)
    with pytest.raises(ArtifactError, match="golden image"):
        check_golden(folder, GRAY, other)
    check_golden(folder, GRAY, other, tolerance=1e3)


def test_a_model_of_other_classes_is_found(package: tuple[Path, Classifier]) -> None:
    folder, _ = package
    write_linear(folder / "other.onnx", np.ones((28 * 28, 3)), np.zeros(3), (28, 28, 1))
    with pytest.raises(ArtifactError, match="10 logits are stored and the model gives 3"):
        check_golden(folder, GRAY, Classifier.load(folder / "other.onnx"))


@pytest.mark.parametrize("broken_classes", [slice(None), 3])
def test_a_model_that_gives_no_numbers_is_not_packaged_and_not_passed(
    package: tuple[Path, Classifier], broken_classes: slice | int
) -> None:
    folder, _ = package
    weights = np.zeros((28 * 28, NUM_CLASSES))
    weights[:, broken_classes] = np.nan
    write_linear(folder / "broken.onnx", weights, np.zeros(NUM_CLASSES), (28, 28, 1))
    broken = Classifier.load(folder / "broken.onnx")
    with pytest.raises(ArtifactError, match="logits differ by nan"):
        check_golden(folder, GRAY, broken)
    (folder / f"new {broken_classes}").mkdir()
    with pytest.raises(ArtifactError, match="not finite"):
        write_golden(folder / f"new {broken_classes}", GRAY, broken)


def test_the_same_model_writes_the_same_bytes_twice(tmp_path: Path) -> None:
    written = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_golden(tmp_path / name, COLOUR, model(tmp_path / name / "model.onnx", COLOUR))
        files = sorted((tmp_path / name / "golden").iterdir())
        written.append({path.name: path.read_bytes() for path in files})
    assert written[0] == written[1]


def test_a_network_with_convolutions_passes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_cnn(tmp_path / "model.onnx", rng.normal(size=(4, 3, 3, 3)), rng.normal(size=(576, 5)), (24, 24, 3))
    classifier = Classifier.load(tmp_path / "model.onnx")
    write_golden(tmp_path, COLOUR, classifier)
    check_golden(tmp_path, COLOUR, Classifier.load(tmp_path / "model.onnx", num_threads=2))


@pytest.mark.parametrize("max_pixels", [16, 300, 2000])
def test_the_pictures_keep_the_transforms_own_limit_of_pixels(tmp_path: Path, max_pixels: int) -> None:
    small = GRAY.model_copy(update={"max_pixels": max_pixels})
    classifier = model(tmp_path / "model.onnx", small)
    write_golden(tmp_path, small, classifier)
    check_golden(tmp_path, small, classifier)


@pytest.mark.parametrize(
    ("listing", "said"),
    [
        (None, "golden.json is missing"),
        ("[]", "nothing is proven"),
        ("{", "not a list"),
        ('[{"file": 1}]', "not a list"),
    ],
)
def test_a_listing_that_proves_nothing_is_refused(
    package: tuple[Path, Classifier], listing: str | None, said: str
) -> None:
    folder, classifier = package
    path = folder / "golden" / "golden.json"
    path.unlink() if listing is None else path.write_text(listing)
    with pytest.raises(ArtifactError, match=said) as caught:
        check_golden(folder, GRAY, classifier)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"no picture")])
def test_a_picture_that_cannot_be_read_is_named(
    package: tuple[Path, Classifier], damage: Callable[[Path], object]
) -> None:
    folder, classifier = package
    damage(folder / "golden" / "odd.png")
    with pytest.raises(ArtifactError, match=r"golden image odd\.png: "):
        check_golden(folder, GRAY, classifier)
