"""The tutorial's Keras 3 on TensorFlow: `fit` on normalised arrays in memory; images/s of an epoch, wall or CPU time.

`compile` keeps its defaults, which leave XLA off on a CPU: it was the slower of the two.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from bench.train.worker import serve


class EpochClock(keras.callbacks.Callback):
    """Time of an epoch, without what `fit` does once a call."""

    def __init__(self, now):
        super().__init__()
        self.now = now

    def on_epoch_begin(self, epoch, logs=None):
        self.started = self.now()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds = self.now() - self.started


def tutorial_cnn(augmented: bool) -> keras.Model:
    """The tutorial's network, (N, 28, 28, 1) → logits (N, 10); with flips and shifts inside where `augmented`."""
    change = [layers.RandomFlip("horizontal"), layers.RandomTranslation(0.1, 0.1, "constant")] if augmented else []
    return keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            *change,
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ]
    )


def main(inputs: Path, threads: int, augmented: bool, batch_size: int, now: Callable[[], float]) -> None:
    """Fit an epoch a round; `now` is the clock."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    with np.load(inputs / "arrays.npz") as arrays:
        images = ((arrays["images"] / 255 - 0.286) / 0.353).astype(np.float32)
        labels = arrays["labels"]
    model = tutorial_cnn(augmented)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    clock = EpochClock(now)

    def epoch() -> float:
        model.fit(images, labels, batch_size=batch_size, epochs=1, verbose=0, callbacks=[clock])
        return len(images) / clock.seconds

    epoch()
    serve(epoch, f"keras {keras.__version__}, tensorflow {tf.__version__}, jit_compile={model.jit_compile}")


if __name__ == "__main__":
    _, inputs, threads, row, *rest = sys.argv
    batch_size, clock = rest or ("128", "wall")
    now = time.process_time if clock == "cpu" else time.perf_counter
    main(Path(inputs), int(threads), row == "augmented", int(batch_size), now)
