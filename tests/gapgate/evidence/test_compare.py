import math
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from gapgate.evidence.compare import Comparison, compare
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


def always(path: Path, weights: list[list[float]]) -> Classifier:
    """A model of images of one pixel and two classes whose logits are pixel / 255 · weights[0] + weights[1]."""
    write_linear(path, np.array([weights[0]]), np.array(weights[1]), (1, 1, 1))
    return Classifier.load(path)


def test_every_count_is_that_of_five_images_worked_by_hand(tmp_path: Path) -> None:
    champion = always(tmp_path / "champion.onnx", [[0, 2], [1, 0]])  # class 1 above half brightness
    challenger = always(tmp_path / "challenger.onnx", [[0, 0], [1, 0]])  # always class 0
    images = np.array([0, 10, 200, 220, 250], np.uint8).reshape(5, 1, 1, 1)
    labels = np.array([0, 1, 0, 0, 1], np.int32)  # champion right on 0 and 4, challenger on 0, 2 and 3
    found = compare(champion, challenger, images, labels)
    assert found.model_dump() == {
        "comparable": True,
        "not_worse": True,
        "reason": "the challenger gets 3 of 5 test images right, the champion 2",
        "num_images": 5,
        "champion_accuracy": 0.4,
        "challenger_accuracy": 0.6,
        "difference_points": pytest.approx(20),
        "only_champion_right": 1,
        "only_challenger_right": 2,
    }
    swapped = compare(challenger, champion, images, labels)
    assert not swapped.not_worse
    assert swapped.difference_points == pytest.approx(-20)
    assert (swapped.only_champion_right, swapped.only_challenger_right) == (2, 1)


def test_as_many_right_images_are_not_worse_even_if_others(tmp_path: Path) -> None:
    first, second = always(tmp_path / "a.onnx", [[0, 0], [1, 0]]), always(tmp_path / "b.onnx", [[0, 0], [0, 1]])
    found = compare(first, second, np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 1], np.int32))
    assert found.not_worse
    assert (found.only_champion_right, found.only_challenger_right, found.difference_points) == (1, 1, 0)


def test_a_comparison_is_frozen(models: dict[str, Classifier]) -> None:
    found = compare(models["weak"], models["weak"], *(array[1700:] for array in digits()))
    with pytest.raises(ValidationError, match="frozen"):
        found.not_worse = False  # type: ignore[misc]
    with pytest.raises(ValidationError, match="finite number"):
        Comparison.model_validate({**found.model_dump(), "difference_points": math.nan})
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Comparison.model_validate({**found.model_dump(), "note": ""})


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
    assert (found.champion_accuracy, found.num_images) == (None, 1797)
    turned = compare(models["strong"], Classifier.load(tmp_path / "m.onnx"), images, labels)
    assert (turned.comparable, turned.not_worse) == (False, False)
    assert turned.reason.startswith(("the challenger takes images of 8×8×3", "the champion knows 10 classes"))


def test_no_images_compare_nothing(models: dict[str, Classifier]) -> None:
    found = compare(models["weak"], models["strong"], np.empty((0, 8, 8, 1), np.uint8), np.empty(0, np.int32))
    assert found == Comparison(
        comparable=False, not_worse=False, reason="there are no test images to compare the models on", num_images=0
    )
