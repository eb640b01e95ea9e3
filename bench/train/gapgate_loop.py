"""Gapgate's own training loop as `gapgate run` calls it: images/s of an epoch."""

from __future__ import annotations

import sys
import time
from itertools import count
from pathlib import Path
from typing import Literal

import torch

from bench.train.worker import serve
from gapgate.data.splits import Splits
from gapgate.settings.sections import TrainSettings
from gapgate.training import batches
from gapgate.training.augmentation import policy
from gapgate.training.learner import Learner
from gapgate.training.loop import train_epoch


def main(inputs: Path, threads: int, augmented: bool, amp: Literal["on", "off"]) -> None:
    """Train the tutorial CNN, an epoch a round."""
    settings = TrainSettings(
        architecture="tutorial",
        batch_size=128,
        epochs=1000,
        num_shards=threads,
        num_threads=threads,
        accelerator="cpu",
        amp=amp,
    )
    operations = (policy.Flip(type="flip"), policy.Translate(type="translate", max_fraction=0.1)) if augmented else ()
    splits = Splits.open(inputs / "splits")
    device = torch.device("cpu")
    with Learner(settings, splits, operations, device) as learner:
        data = batches.open_batches(splits, "train", device)
        epochs = count(1)

        def epoch() -> float:
            started = time.perf_counter()
            train_epoch(learner, data, next(epochs))
            return len(data) / (time.perf_counter() - started)

        epoch()
        serve(epoch, f"{len(learner.shards)} shards")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "augmented", "on" if sys.argv[4] == "bfloat16" else "off")
