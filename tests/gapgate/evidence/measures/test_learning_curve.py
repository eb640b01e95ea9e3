"""Where learning curves part, and how that is said."""

import pytest

from gapgate.evidence.measures.learning_curve import in_words, parting
from gapgate.evidence.measures.metrics import learning_curve


def history(train, val, losses=None):
    losses = losses or [1 / (at + 1) for at in range(len(train))]
    return [
        {"epoch": at + 1, "train_accuracy": a, "val_accuracy": b, "train_loss": 1 / (at + 1), "val_loss": loss}
        for at, (a, b, loss) in enumerate(zip(train, val, losses, strict=True))
    ]


# The tutorial CNN on 4,049 images of Fashion-MNIST, and more epochs in which its loss goes on rising.
TRAIN = [0.731, 0.847, 0.894, 0.911, 0.932, 0.946, 0.958, 0.965, 0.972, 0.980, 0.989]
VAL = [0.815, 0.825, 0.845, 0.863, 0.870, 0.848, 0.875, 0.868, 0.868, 0.868, 0.868]
LOSS = [0.522, 0.533, 0.483, 0.448, 0.487, 0.489, 0.498, 0.566, 0.60, 0.65, 0.70]


def words(lines, **settings):
    curve = learning_curve(lines)
    return in_words(parting(lines, curve), curve, settings)


def test_a_loss_that_turned_is_where_the_curves_part():
    said, loss = words(history(TRAIN, VAL, LOSS))
    assert loss == (
        "The validation loss turned after epoch 4 (0.448 at its lowest, in epoch 4, and 0.700 at the end): what was "
        "learned after that did not carry over to new images."
    )
    assert said == (
        "Since epoch 4, where the validation loss turned, train accuracy went from 91.1 to 98.9 % (+7.8 points) "
        "and validation accuracy from 86.3 to 86.8 % (+0.5 points): they end 12.1 points apart."
    )


def test_before_a_turn_can_be_told_the_lowest_loss_is_the_place():
    lines = history(TRAIN[:8], VAL[:8], LOSS[:8])
    assert learning_curve(lines)["gap_opens_epoch"] is None
    assert words(lines)[0].startswith("Since epoch 4, where the validation loss was lowest, train accuracy went from")


def test_while_the_loss_still_falls_it_is_the_epoch_after_which_train_stays_above():
    lines = history([0.6, 0.8, 0.86, 0.93, 0.95], [0.7, 0.79, 0.88, 0.89, 0.9])
    found = parting(lines, learning_curve(lines))
    assert (found.epoch, found.reason, found.train, found.val) == (3, "above", (0.86, 0.95), (0.88, 0.9))
    assert found.space_points == pytest.approx(5)


def test_train_above_from_the_start_parts_at_the_first_epoch():
    lines = history([0.8, 0.9, 0.95], [0.7, 0.8, 0.85])
    assert parting(lines, learning_curve(lines)).epoch == 1


def test_curves_that_end_together_have_not_parted():
    assert words(history([0.7, 0.8, 0.9], [0.72, 0.82, 0.895])) == [
        "During training the two accuracies stayed together: the running mean on train ends less than a point above "
        "validation, or below it.",
        "The validation loss did not turn in 3 epochs (0.333 at its lowest, in epoch 3, and 0.333 at the end).",
    ]


@pytest.mark.parametrize("losses", [[2.0, 11.0, 5.0], [2.0, 11.0, 3.0, 9.0, 5.0]])
def test_a_loss_that_ends_far_above_its_lowest_is_not_said_to_have_kept_falling(losses):
    said = " ".join(words(history([0.5] * len(losses), [0.5] * len(losses), losses)))
    assert "did not turn" not in said
    assert "ends above its lowest value (2.000 at its lowest, in epoch 1, and 5.000 at the end)" in said


def test_one_epoch_is_no_curve_and_no_history_says_nothing():
    assert words(history([0.9], [0.5])) == ["One epoch makes no curve: nothing is to be seen of overfitting yet."]
    assert words([]) == []


def test_early_stopping_says_which_epoch_the_model_is_of():
    lines = history(TRAIN, VAL, LOSS)
    assert words(lines, patience=3, epochs=20)[2] == (
        "Early stopping ended the training after 11 epochs: the model has the weights of epoch 4, the best on "
        "validation."
    )
    assert words(lines, patience=9, epochs=11)[2].startswith("The model has the weights of epoch 4")
    assert len(words(lines, patience=0, epochs=11)) == 2


def test_epochs_without_figures_are_left_out():
    lines = history(TRAIN, VAL, LOSS)
    lines[3] |= {"train_accuracy": None}
    assert parting(lines, learning_curve(lines)).epoch == 5
    assert parting([{"epoch": 1}, {"epoch": 2}], learning_curve([{"epoch": 1}, {"epoch": 2}])) is None


def test_a_loss_that_turned_counts_where_the_accuracies_end_together():
    lines = history(TRAIN, TRAIN, LOSS)
    found = parting(lines, learning_curve(lines))
    assert (found.epoch, found.reason, found.space_points) == (4, "turn", 0)


def test_the_turn_counts_and_not_one_lucky_epoch_before_it():
    losses = [0.9, 0.30, 0.5, 0.42, 0.36, 0.33, 0.36, 0.42, 0.5, 0.58, 0.66]
    lines = history(TRAIN, VAL, losses)
    curve = learning_curve(lines)
    assert (curve["best_epoch"], curve["gap_opens_epoch"]) == (2, 6)
    found = parting(lines, curve)
    assert (found.epoch, found.reason) == (6, "turn")
    assert (found.train, found.val) == ((0.946, 0.989), (0.848, 0.868))


@pytest.mark.parametrize(
    ("losses", "epoch", "reason"),
    [
        # The lowest loss is two epochs before the last one, and then one.
        ([0.9, 0.8, 0.5, 0.6, 0.65], 3, "lowest"),
        ([0.9, 0.8, 0.7, 0.5, 0.65], 2, "above"),
    ],
)
def test_two_epochs_after_the_lowest_loss_make_it_the_place(losses, epoch, reason):
    lines = history([0.6, 0.7, 0.8, 0.9, 0.95], [0.65, 0.7, 0.75, 0.76, 0.77], losses)
    found = parting(lines, learning_curve(lines))
    # In epoch 2 both are equal: train stays above from there on.
    assert (found.epoch, found.last_epoch, found.reason) == (epoch, 5, reason)


@pytest.mark.parametrize(("val", "is_parted"), [(0.8901, False), (0.8899, True)])
def test_a_point_between_the_last_accuracies_parts_the_curves(val, is_parted):
    lines = history([0.7, 0.8, 0.9], [0.7, 0.8, val])
    assert (parting(lines, learning_curve(lines)) is not None) == is_parted


@pytest.mark.parametrize(("last_unknown", "epoch"), [(9, 10), (10, 3)])
def test_the_next_epoch_with_accuracies_stands_for_one_without_and_before_the_end_the_last_one(last_unknown, epoch):
    lines = history(TRAIN, VAL, LOSS)
    for line in lines[3:last_unknown]:  # from the turn in epoch 4 on
        line["val_accuracy"] = None
    found = parting(lines, learning_curve(lines))
    assert (found.epoch, found.last_epoch, found.reason) == (epoch, 11, "turn")
    assert (found.train, found.val) == ((TRAIN[epoch - 1], 0.989), (VAL[epoch - 1], 0.868))


def test_epochs_up_to_the_number_that_was_asked_for_are_no_early_end():
    lines = history(TRAIN, VAL, LOSS)
    assert words(lines, patience=3, epochs=12)[2].startswith("Early stopping ended the training after 11 epochs: the")
    assert words(lines, patience=3, epochs=11)[2].startswith("The model has the weights of epoch 4")


def test_a_distance_is_told_without_a_sign_where_validation_ends_above_train():
    lines = history(VAL, TRAIN, LOSS)
    found = parting(lines, learning_curve(lines))
    assert found.space_points == pytest.approx(-12.1)
    assert words(lines)[0].endswith("they end 12.1 points apart.")
