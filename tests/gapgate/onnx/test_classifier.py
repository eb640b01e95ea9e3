import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto

from gapgate.errors import ArtifactError, DataError
from gapgate.onnx.classifier import Classifier, logit_scale, softmax
from tests.gapgate.onnx_models import DIGITS_SHAPE, digits, fit_linear, write_linear


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    images, labels = digits()
    return fit_linear(tmp_path_factory.mktemp("model") / "model.onnx", images[:300], labels[:300])


def test_logits_are_those_of_the_formula(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    weights, bias = rng.normal(size=(12, 3)), rng.normal(size=3)
    images = rng.integers(0, 256, (7, 2, 2, 3), dtype=np.uint8)
    write_linear(tmp_path / "m.onnx", weights, bias, (2, 2, 3))
    logits = Classifier.load(tmp_path / "m.onnx").logits(images)
    assert logits.shape == (7, 3)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, images.reshape(7, -1) / 255 @ weights + bias, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 50, 1000])
def test_the_batch_size_does_not_change_an_answer(classifier: Classifier, batch_size: int) -> None:
    images = digits()[0][:50]
    np.testing.assert_allclose(classifier.logits(images, batch_size), classifier.logits(images), atol=1e-5)


def test_no_images_give_no_logits(classifier: Classifier) -> None:
    assert classifier.logits(np.empty((0, *DIGITS_SHAPE), np.uint8)).shape == (0, 10)


def test_a_view_with_negative_strides_is_run_as_it_looks(classifier: Classifier) -> None:
    images = digits()[0][:20]
    np.testing.assert_array_equal(classifier.logits(images[::-1])[::-1], classifier.logits(images))


@pytest.mark.parametrize(
    ("images", "named"),
    [
        (np.zeros((2, 9, 8, 1), np.uint8), "9×8×1 uint8"),
        (np.zeros((2, 8, 8, 3), np.uint8), "8×8×3 uint8"),
        (np.zeros((2, 8, 8, 1), np.float32), "8×8×1 float32"),
    ],
)
def test_images_of_another_shape_or_type_are_named(classifier: Classifier, images: np.ndarray, named: str) -> None:
    with pytest.raises(DataError, match=f"{named} do not fit the model, which takes 8×8×1 uint8"):
        classifier.logits(images)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"model\.onnx is missing"):
        Classifier.load(tmp_path / "model.onnx")


def test_a_file_that_is_no_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x00not a model" * 30)
    with pytest.raises(ArtifactError, match="not a model that ONNX Runtime can run") as caught:
        Classifier.load(tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)


def test_a_model_of_float_images_is_refused(tmp_path: Path) -> None:
    write_linear(tmp_path / "m.onnx", np.zeros((4, 2)), np.zeros(2), (2, 2, 1), input_type=TensorProto.FLOAT)
    with pytest.raises(ArtifactError, match="needed are images"):
        Classifier.load(tmp_path / "m.onnx")


@given(hnp.arrays(np.float32, (3, 4), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_softmax_is_a_distribution_for_any_finite_logits(logits: np.ndarray) -> None:
    probabilities = softmax(logits)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities.max(axis=1) == probabilities[np.arange(3), logits.argmax(axis=1)]).all()


def test_each_row_of_logits_has_its_own_probabilities_however_large_or_small_they_are() -> None:
    logits = np.array([[0, math.log(3)], [2000, 2000 + math.log(3)], [-2000, -2000 - math.log(3)]], np.float32)
    expected = [[0.25, 0.75], [0.25, 0.75], [0.75, 0.25]]
    np.testing.assert_allclose(softmax(logits), expected, atol=1e-4)


def test_the_scale_of_logits_is_that_of_the_largest_whatever_its_sign_and_1_at_least() -> None:
    assert logit_scale(np.array([[2.0, -15.0], [3.0, 1.0]], np.float32)) == 15
    assert logit_scale(np.array([[0.5, -0.25]], np.float32)) == 1
    assert logit_scale(np.empty((0, 3), np.float32)) == 1


def test_the_module_loads_neither_torch_nor_scipy_nor_onnx() -> None:
    code = (
        "import sys, gapgate.onnx.classifier; print(sorted({'torch', 'scipy', 'onnx', 'sklearn'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
