"""Answers of a packaged model: order and number of classes, the wanted one, limits and heat."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from components import package
from gapgate import artifacts
from gapgate.errors import ArtifactError, GateError, ImageError
from gapgate.evidence.sealed.certificate import Verdict
from gapgate.evidence.sealed.seal import SEAL, seal
from gapgate.onnx.classifier import softmax
from gapgate.settings.sections import PackageSettings
from serving.model import predictor as predictors
from serving.model.predictor import Predictor, _quick_images
from tests.serving import packaged
from tests.serving.packaged import CLASS_NAMES


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.load(packaged.folder(tmp_path_factory.mktemp("predictor"), similar_images=0))


def images(count: int) -> np.ndarray:
    shape = (count, packaged.SIZE_PX, packaged.SIZE_PX, 1)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("verdict", ["undecided", "fail"])
def test_a_package_whose_certificate_does_not_pass_is_not_opened(tmp_path: Path, verdict: Verdict) -> None:
    given = packaged.inputs(tmp_path / "inputs", verdict=verdict)
    package.write(PackageSettings(similar_images=0), given, tmp_path / "package")
    with pytest.raises(GateError, match=f"the certificate's verdict is {verdict}, not pass"):
        Predictor.load(tmp_path / "package")


@pytest.mark.parametrize("count", [6, 8])
def test_a_package_with_fewer_or_more_names_than_logits_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(packaged, "_write_model", partial(_write_model_with_names, count))
    with pytest.raises(ArtifactError, match=f"the model has 7 logits and {count} class names"):
        Predictor.load(packaged.folder(tmp_path, similar_images=0))


def _write_model_with_names(count: int, folder: Path, transform: bytes, model: onnx.ModelProto) -> None:
    onnx.save(model, folder / "model.onnx")
    (folder / "transform.json").write_bytes(transform)
    artifacts.write_json(folder / "architecture.json", {"class_names": [*CLASS_NAMES, "hen"][:count]})


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A package of one's own, to change and to seal again."""
    folder = packaged.folder(tmp_path, similar_images=0)
    Predictor.load(folder)
    return folder


def sealed_again(folder: Path) -> Path:
    (folder / SEAL).unlink()
    seal(folder)
    return folder


def test_a_package_that_answers_otherwise_than_at_packaging_is_not_opened(own: Path) -> None:
    listing = own / "golden" / "golden.json"
    golden = artifacts.read_json(listing)
    golden[2]["logits"][0] += 0.5
    artifacts.write_json(listing, golden)
    with pytest.raises(ArtifactError, match=f"golden image {golden[2]['file']}: logits differ by 0.5"):
        Predictor.load(sealed_again(own))


def test_a_package_with_another_file_than_that_of_its_lineage_is_not_opened(own: Path) -> None:
    # Sealed and with golden answers of its own, as a package that somebody makes of another model and this receipt.
    changed = artifacts.read_json(own / "architecture.json")
    changed["class_names"] = changed["class_names"][::-1]
    artifacts.write_json(own / "architecture.json", changed)
    with pytest.raises(ArtifactError, match=r"architecture\.json is not the one of the model in the lineage"):
        Predictor.load(sealed_again(own))


def digested(entry: dict[str, Any]) -> str:
    return artifacts.digest_of({name: value for name, value in entry.items() if name != "digest"})


def test_a_lineage_that_was_changed_or_is_of_another_certificate_than_the_receipts_is_not_opened(own: Path) -> None:
    lineage = artifacts.read_json(own / artifacts.LINEAGE)
    certificate, registration = lineage["certificate"], lineage["registration"]
    certificate["settings"] = {"max_gap_points": 100}
    artifacts.write_json(own / artifacts.LINEAGE, lineage)
    with pytest.raises(ArtifactError, match="the lineage of the certificate was changed since it was written"):
        Predictor.load(sealed_again(own))
    # A chain that is whole in itself.
    certificate["digest"] = registration["inputs"]["certificate"] = digested(certificate)
    registration["digest"] = digested(registration)
    artifacts.write_json(own / artifacts.LINEAGE, lineage)
    with pytest.raises(ArtifactError, match=r"the receipt names the certificate sha256:.*, the lineage does not"):
        Predictor.load(sealed_again(own))


def test_probabilities_are_those_of_the_images_in_their_order_and_add_up_to_1(predictor: Predictor) -> None:
    some = images(5)
    found = predictor.probabilities(some)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    for at in range(5):
        logits = predictor.classifier.logits(some[at : at + 1])
        np.testing.assert_allclose(found[at], softmax(logits)[0], atol=1e-6)


@pytest.mark.parametrize("top_k", [1, 3, 7])
def test_the_most_probable_classes_come_first_and_equal_ones_in_the_order_of_the_outputs(
    predictor: Predictor, top_k: int
) -> None:
    probabilities = np.array(
        [[0.0625, 0.25, 0.0, 0.25, 0.1875, 0.25, 0.0], [0.5, 0.0, 0.125, 0.0, 0.25, 0.0, 0.125]], np.float32
    )
    expected = [
        [("bee", 0.25), ("dog", 0.25), ("fox", 0.25), ("eel", 0.1875), ("ant", 0.0625), ("cat", 0), ("gnu", 0)],
        [("ant", 0.5), ("eel", 0.25), ("cat", 0.125), ("gnu", 0.125), ("bee", 0), ("dog", 0), ("fox", 0)],
    ]
    assert [list(row.items()) for row in predictor.ranked(probabilities, top_k)] == [row[:top_k] for row in expected]


def test_a_class_is_the_most_probable_one_or_the_wanted_one_with_its_own_probability(predictor: Predictor) -> None:
    image = images(1)[0]
    probabilities = predictor.probabilities(image[None])[0]
    best = int(probabilities.argmax())
    assert predictor.class_of(image) == (CLASS_NAMES[best], pytest.approx(float(probabilities[best])))
    for label, name in enumerate(CLASS_NAMES):
        assert predictor.class_of(image, name) == (name, pytest.approx(float(probabilities[label])))


def test_the_lower_limit_of_pixels_holds(predictor: Predictor) -> None:
    png = packaged.picture(20, 10)
    with predictor.open(png, 10**6) as opened:
        pixels = opened.width * opened.height
    assert predictor.open(png, pixels).size == opened.size
    with pytest.raises(ImageError, match=f"exceed the limit of {pixels - 1:,} pixels"):
        predictor.open(png, pixels - 1)
    transform = predictor.transform.model_copy(update={"max_pixels": pixels - 1})
    fields = {name: getattr(predictor, name) for name in Predictor.__slots__}
    with pytest.raises(ImageError, match=f"exceed the limit of {pixels - 1:,} pixels"):
        Predictor(**fields | {"transform": transform}).open(png, 10**6)


def test_heat_is_of_the_named_class_with_the_fill_of_the_transform(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(
        predictors, "occlusion", lambda classifier, image, index, **more: asked.append((index, more["fill"]))
    )
    transform = predictor.transform.model_copy(update={"fill": 77})
    fields = {name: getattr(predictor, name) for name in Predictor.__slots__}
    Predictor(**fields | {"transform": transform}).heat(images(1)[0], "dog", lambda: False)
    assert asked == [(3, 77)]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 0.009, 8: 0.001, 64: 0.001}, 0),
        ({1: 0.008, 8: 0.009, 64: 0.001}, 1),
        ({1: 0.001, 8: 0.008, 64: 0.009}, 8),
        ({1: 0.001, 8: 0.002, 64: 0.008}, 64),
    ],
)
def test_as_many_images_are_quick_as_take_eight_milliseconds_at_most(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], expected: int
) -> None:
    # Of three runs the quickest counts.
    monkeypatch.setattr(predictors.timeit, "repeat", lambda call, **_: [1.0, seconds[len(call.args[0])], 2.0])
    assert _quick_images(predictor.classifier) == expected
