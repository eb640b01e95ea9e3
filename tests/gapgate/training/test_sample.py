"""The sample of validation images with the model's answers after an epoch."""

import numpy as np
import pytest

from gapgate.training import sample

NAMES = ("cat", "dog")


@pytest.mark.parametrize("epochs", [1, 2, 9, 10, 20, 57, 1000])
def test_the_first_and_the_last_epoch_are_shown_and_ten_at_most(epochs):
    shown = [epoch for epoch in range(1, epochs + 1) if sample.is_shown(epoch, epochs)]
    assert shown[0] == 1
    assert shown[-1] == epochs
    assert min(epochs, 6) <= len(shown) <= sample.MAX_PICTURES


def test_an_image_is_on_the_sheet_with_green_words_where_it_was_right_and_red_ones_where_not():
    images = np.random.default_rng(0).integers(60, 200, (3, 8, 8, 1), np.uint8)
    labels = np.array([0, 1, 1])
    right = np.array([[0.9, 0.1], [0.1, 0.9], [0.2, 0.8]], np.float32)
    drawn = {
        name: np.asarray(sample.sheet(images, labels, given, NAMES))
        for name, given in (("right", right), ("wrong", 1 - right))
    }
    for name, has, lacks in (("right", (26, 127, 55), (180, 35, 24)), ("wrong", (180, 35, 24), (26, 127, 55))):
        assert (drawn[name] == has).all(axis=2).any()
        assert not (drawn[name] == lacks).all(axis=2).any()
    # 8 px are enlarged by a whole factor to 96, so each pixel is a block.
    tile = drawn["right"][8 : 8 + 96, 8 : 8 + 96, 0]
    assert (tile[::12, ::12] == images[0, :, :, 0]).all()
    assert drawn["right"].shape == (8 + 96 + 32 + 8, 3 * 104 + 8, 3)
