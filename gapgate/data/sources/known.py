"""Class names of well-known data sets whose files hold numbers alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FASHION_MNIST = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
"""https://github.com/zalandoresearch/fashion-mnist#labels"""
CIFAR_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""https://www.cs.toronto.edu/~kriz/cifar.html"""
CIFAR_100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
    "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
    "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
    "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip
"""The fine labels, in the order of their alphabet."""

_FIRST_LABELS: dict[tuple[int, ...], dict[tuple[int, ...], tuple[str, ...]]] = {
    (28, 28): {
        (9, 0, 0, 3, 0, 2, 7, 2, 5, 5): FASHION_MNIST,
        (9, 2, 1, 1, 6, 1, 4, 6, 5, 7): FASHION_MNIST,
    },
    (32, 32, 3): {
        (6, 9, 9, 4, 1, 1, 2, 7, 8, 3): CIFAR_10,
        (3, 8, 8, 0, 6, 6, 1, 6, 3, 1): CIFAR_10,
        (19, 29, 0, 11, 1, 86, 90, 28, 23, 31): CIFAR_100,
        (49, 33, 72, 51, 71, 92, 15, 14, 23, 0): CIFAR_100,
    },
}
"""Shape of the images → the first ten labels of the training or the test split → names."""


def known_names(shape: Sequence[int], labels: NDArray[np.generic]) -> tuple[str, ...]:
    """Names of the classes of a well-known data set, recognised by the shape of its images and its first ten labels;
    `()` for any other."""
    if labels.dtype.kind not in "iu":
        return ()
    return _FIRST_LABELS.get(tuple(shape), {}).get(tuple(labels[:10].tolist()), ())
