"""Which epoch's figures are those of the model."""

import pytest

from gapgate.settings.sections import TrainSettings
from gapgate.training.recipe import Recipe
from gapgate.training.trained import Trained, kept_epoch

HISTORY = [
    {"epoch": epoch, "train_loss": loss - 0.1, "train_accuracy": 0.9, "val_loss": loss, "val_accuracy": accuracy}
    for epoch, loss, accuracy in ((1, 0.5, 0.70), (2, 0.3, 0.80), (3, 0.3, 0.85), (4, 0.4, 0.90))
]


@pytest.mark.parametrize(("patience", "epoch"), [(0, 4), (1, 2), (3, 2)])
def test_with_patience_the_model_is_of_the_first_epoch_of_the_smallest_loss_and_else_of_the_last(patience, epoch):
    assert kept_epoch(HISTORY, patience)["epoch"] == epoch
    figures = HISTORY[epoch - 1]
    recipe = Recipe.model_construct(**TrainSettings(architecture="small", patience=patience).model_dump())
    found = Trained(recipe, None, (), (), HISTORY, {})
    assert found.kept == figures
    assert found.val_score == {"loss": figures["val_loss"], "accuracy": figures["val_accuracy"]}
