"""`python killed_training.py SPLITS OUT`: train once without, once with SIGKILL at several epochs.

Every attempt is a fork of one process that has imported torch but not yet used it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from gapgate.data.splits import Splits
from gapgate.settings.sections import TrainSettings
from gapgate.tracking import NullTracker
from gapgate.training.augmentation import policy
from gapgate.training.fit import train

SETTINGS = {
    "architecture": [
        {"type": "conv", "filters": 8},
        {"type": "batch_norm"},
        {"type": "activation"},
        {"type": "pool"},
        {"type": "dropout2d"},
        {"type": "flatten"},
        {"type": "dense", "units": 32},
        {"type": "batch_norm"},
        {"type": "activation"},
        {"type": "dropout"},
        {"type": "dense"},
    ],
    "epochs": 6,
    "batch_size": 70,
    "learning_rate": 0.01,
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "max_gradient_norm": 1.0,
    "patience": 5,
    "ema_decay": 0.95,
    "accelerator": "cpu",
    "num_threads": 2,
}
OPERATIONS = (policy.Rotate(type="rotate"), policy.Erase(type="erase"), policy.Mixup(type="mixup"))


class KilledAt(NullTracker):
    """Kills its process while it hears of an epoch, before the epoch's checkpoint, or after that of the one before."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        if step == self.epoch:
            os.kill(os.getpid(), signal.SIGKILL)


def attempt(splits_dir: Path, out_dir: Path, checkpoint_dir: Path, killed_at: int) -> int:
    """Train in a child process; how it ended: 0, or minus the signal."""
    child = os.fork()
    if child == 0:
        opened: list[str] = []
        sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
        settings = TrainSettings.model_validate_json(json.dumps(SETTINGS))
        out_dir.mkdir(exist_ok=True)
        train(settings, Splits.open(splits_dir), OPERATIONS, out_dir, checkpoint_dir, KilledAt(killed_at))
        facts = {"dynamo": "torch._dynamo" in sys.modules, "opened": [Path(name).name for name in opened]}
        (out_dir.parent / f"{out_dir.name}.facts.json").write_text(json.dumps(facts))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(splits_dir: Path, root: Path) -> None:
    ends = [attempt(splits_dir, root / "whole", root / "whole_checkpoints", killed_at=0)]
    ends += [attempt(splits_dir, root / "killed", root / "checkpoints", killed_at=epoch) for epoch in (1, 3, 6, 0)]
    (root / "ends.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
