from pathlib import Path

import numpy as np
import pytest

from gapgate.evidence.compare import compare
from gapgate.onnx.classifier import Classifier
from tests.gapgate.onnx_models import digits, fit_linear, write_linear


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Classifier]:
    images, labels = digits()
    folder = tmp_path_factory.mktemp("models")
    return {
        "weak": fit_linear(folder / "weak.onnx", images[:60], labels[:60], strength=0.001),
        "strong": fit_linear(folder / "strong.onnx", images[:1200], labels[:1200]),
    }


def test_a_better_challenger_is_not_worse_and_a_weaker_one_is(models: dict[str, Classifier]) -> None:
    images, labels = (array[1200:] for array in digits())
    found = compare(models["weak"], models["strong"], images, labels)
    assert found.comparable
    assert found.not_worse
    assert found.difference_points is not None
    assert found.difference_points > 5
    assert not compare(models["strong"], models["weak"], images, labels).not_worse


def test_the_images_that_only_one_gets_right_explain_the_difference(models: dict[str, Classifier]) -> None:
    images, labels = (array[1200:] for array in digits())
    found = compare(models["weak"], models["strong"], images, labels)
    assert found.only_challenger_right is not None
    assert found.only_champion_right is not None
    assert found.difference_points is not None
    net = found.only_challenger_right - found.only_champion_right
    assert net / len(images) * 100 == pytest.approx(found.difference_points)
    swapped = compare(models["strong"], models["weak"], images, labels)
    assert swapped.only_champion_right == found.only_challenger_right


def test_a_model_is_not_worse_than_itself(models: dict[str, Classifier]) -> None:
    images, labels = (array[1200:] for array in digits())
    found = compare(models["strong"], models["strong"], images, labels)
    assert found.not_worse
    assert (found.only_champion_right, found.only_challenger_right, found.difference_points) == (0, 0, 0.0)


@pytest.mark.parametrize(
    ("image_shape", "num_classes", "reason"),
    [
        ((8, 8, 3), 10, "the champion takes images of 8×8×3, the test images are 8×8×1"),
        ((8, 8, 1), 9, "the champion knows 9 classes, the challenger 10"),
    ],
)
def test_models_of_another_shape_are_said_to_be_incomparable(
    models: dict[str, Classifier], tmp_path: Path, image_shape: tuple[int, int, int], num_classes: int, reason: str
) -> None:
    write_linear(tmp_path / "m.onnx", np.zeros((np.prod(image_shape), num_classes)), np.zeros(num_classes), image_shape)
    images, labels = digits()
    found = compare(Classifier.load(tmp_path / "m.onnx"), models["strong"], images, labels)
    assert (found.comparable, found.not_worse, found.reason) == (False, False, reason)
    assert found.champion_accuracy is None


def test_no_images_compare_nothing(models: dict[str, Classifier]) -> None:
    found = compare(models["weak"], models["strong"], np.empty((0, 8, 8, 1), np.uint8), np.empty(0, np.int32))
    assert not found.comparable
    assert not found.not_worse
