import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from gapgate.evidence.measures import metrics
from gapgate.onnx.classifier import softmax


def test_cross_entropy_is_scikit_learns_log_loss() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 4)).astype(np.float32)
    labels = rng.integers(0, 4, 50).astype(np.int32)
    expected = log_loss(labels, softmax(logits), labels=range(4))
    assert metrics.cross_entropy(logits, labels).mean() == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_of_a_confident_mistake_is_finite() -> None:
    loss = metrics.cross_entropy(np.array([[1e4, -1e4]], np.float32), np.array([1], np.int32))
    assert loss[0] == pytest.approx(2e4)


def test_confusion_counts_rows_as_truth_even_for_classes_nobody_saw() -> None:
    counts = metrics.confusion(np.array([0, 0, 2], np.int32), np.array([0, 2, 2], np.int32), 4)
    assert counts.tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_what_has_nothing_to_divide_by_is_none() -> None:
    found = metrics.per_class(np.array([0, 0, 1], np.int32), np.array([0, 1, 1], np.int32), ["a", "b", "c"])
    assert found[0] == {"name": "a", "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}
    assert found[2] == {"name": "c", "precision": None, "recall": None, "f1": None, "support": 0}


def test_the_roc_curve_begins_above_all_scores_and_ends_below_them() -> None:
    # Fawcett 2006, "An introduction to ROC analysis", algorithm 1, by hand: from the highest score down, a positive
    # image is a step up and a negative one a step to the right.
    labels, scores = np.array([0, 0, 1, 1, 1], np.int32), [0.1, 0.4, 0.35, 0.8, 0.05]
    assert metrics.roc(labels, scores, 10) == (
        [0, 0, 0.5, 0.5, 1, 1],
        [0, pytest.approx(1 / 3), pytest.approx(1 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3), 1],
        [1, 0.8, 0.4, 0.35, 0.1, 0.05],
    )
    false_positive, true_positive, thresholds = metrics.roc(labels, scores, 2)
    assert (false_positive, true_positive, thresholds) == ([0, 1], [0, 1], [1, 0.05])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize("label", [0, 1])
def test_images_of_one_class_have_no_roc_curve(label: int) -> None:
    assert metrics.roc(np.full(4, label, np.int32), [0.1, 0.9, 0.4, 0.6], 10) == ([], [], [])


def test_epochs_without_a_number_are_counted_from_one() -> None:
    assert metrics.learning_curve([{"val_loss": 0.5}, {"val_loss": 0.4}])["best_epoch"] == 2


def loss_curve(turn: int | None, num_epochs: int, noise: float, seed: int) -> np.ndarray:
    """Falls to `turn` (0-based) and rises by 4 % an epoch from there; None: falls and stays."""
    epochs = np.arange(num_epochs, dtype=np.float64)
    falling = 0.3 + 0.5 * np.exp(-epochs / 2)
    curve = falling if turn is None else falling + 0.012 * np.maximum(0, epochs - turn)
    return curve * (1 + noise * np.random.default_rng(seed).normal(size=num_epochs))


def test_the_turn_of_a_clean_curve_is_its_minimum() -> None:
    losses = np.array([0.9, 0.6, 0.45, 0.4, 0.43, 0.47, 0.52])
    assert metrics.val_loss_turn(losses) == 3


def test_a_turn_is_found_in_noise() -> None:
    found = [metrics.val_loss_turn(loss_curve(8, 24, 0.02, seed)) for seed in range(200)]
    near = [turn is not None and 5 <= turn <= 12 for turn in found]
    assert sum(near) >= 190


def test_a_plateau_with_noise_is_no_turn() -> None:
    found = [metrics.val_loss_turn(loss_curve(None, 24, noise, seed)) for noise in (0.02, 0.1) for seed in range(200)]
    assert sum(turn is not None for turn in found) <= 12


def test_one_bad_epoch_is_no_turn() -> None:
    losses = loss_curve(None, 15, 0, 0)
    losses[9] *= 3
    assert metrics.val_loss_turn(losses) is None
    losses[9], losses[14] = losses[8], 3
    assert metrics.val_loss_turn(losses) is None


def test_one_lucky_epoch_does_not_move_the_turn() -> None:
    losses = loss_curve(6, 20, 0, 0)
    losses[1] = 0.01
    assert metrics.val_loss_turn(losses) in (6, 7)


@pytest.mark.parametrize(("step", "turn"), [(0.0050, None), (0.0052, 3)])
def test_a_rise_of_less_than_a_twentieth_of_the_smallest_loss_is_no_turn(step: float, turn: int | None) -> None:
    # Without noise. The median of three is 0.4 + step at its smallest and 0.4 + 5 step at the end: the rise is 4 step,
    # and a twentieth 0.02 + step / 20.
    losses = [0.9, 0.6, 0.45, *(0.4 + step * epoch for epoch in range(7))]
    assert metrics.val_loss_turn(np.array(losses)) == turn


@pytest.mark.parametrize(("rise", "turn"), [(0.0920, None), (0.1015, 1)])
def test_a_rise_within_four_standard_deviations_of_the_noise_is_no_turn(rise: float, turn: int | None) -> None:
    # A zigzag of ± 0.01 has second differences of 0.04, so by the formula a noise of 1.4826 · 0.04 / √6 = 0.02421 and a
    # least rise of 0.09684. Medians of three are 0.99 at the smallest and 0.99 + rise at the end.
    zigzag = [0.01 * (-1) ** epoch for epoch in range(31)]
    losses = [1.0 + value + (rise if epoch >= 16 else 0) for epoch, value in enumerate(zigzag[:16] + zigzag[1:16])]
    assert metrics.val_loss_turn(np.array(losses)) == turn


@pytest.mark.parametrize("num_epochs", [0, 1, 2, 3])
def test_few_epochs_show_no_turn(num_epochs: int) -> None:
    assert metrics.val_loss_turn(np.linspace(0.1, 0.9, num_epochs)) is None


def test_the_learning_curve_names_epochs_as_the_history_counts_them() -> None:
    losses = [0.9, 0.6, 0.45, 0.4, 0.43, 0.47, 0.52]
    history = [{"epoch": index + 1, "val_loss": loss} for index, loss in enumerate(losses)]
    curve = metrics.learning_curve(history)
    assert curve == {
        "num_epochs": 7,
        "best_epoch": 4,
        "best_val_loss": 0.4,
        "last_val_loss": 0.52,
        "gap_opens_epoch": 4,
    }


@given(st.lists(st.one_of(st.none(), st.floats(), st.just("oops")), max_size=30))
def test_any_history_gives_figures_that_json_can_hold(losses: list[object]) -> None:
    curve = metrics.learning_curve([{"epoch": i + 1, "val_loss": loss} for i, loss in enumerate(losses)])
    assert all(value is None or math.isfinite(value) for value in curve.values())
