"""A recipe's training as `gapgate run` does it, an epoch and its validation: training images/s, in wall or CPU time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import torch

from bench.train.worker import serve
from gapgate.data.splits import Splits
from gapgate.settings import load
from gapgate.training import batches
from gapgate.training.learner import Learner
from gapgate.training.loop import train_epoch, validate


def main(inputs: Path, threads: int, recipe: Path, now: Callable[[], float]) -> None:
    """Train with the recipe's settings, an epoch and its validation a round; `now` is the clock."""
    settings = load(recipe, [f"train.num_shards={threads}", f"train.num_threads={threads}", "train.accelerator=cpu"])
    splits = Splits.open(inputs / "splits")
    device = torch.device("cpu")
    with Learner(settings.train, splits, settings.augment.operations, device) as learner:
        train_data, val_data = (batches.open_batches(splits, name, device) for name in ("train", "val"))
        epochs = count(1)

        def epoch() -> float:
            started = now()
            train_epoch(learner, train_data, next(epochs))
            validate(learner, val_data)
            return len(train_data) / (now() - started)

        epoch()
        serve(epoch, f"{settings.train.epochs} epochs")


if __name__ == "__main__":
    _, inputs, threads, recipe, clock = sys.argv
    main(Path(inputs), int(threads), Path(recipe), time.process_time if clock == "cpu" else time.perf_counter)
