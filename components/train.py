"""train: Splits and Policy → a Model, resuming from its own checkpoints."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from components.platform.workspace import checkpoint_dir
from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.data.splits import Splits
from gapgate.errors import storage_errors
from gapgate.settings.sections import AugmentSettings, TrainSettings, parse
from gapgate.tracking import Tracker
from gapgate.training import device
from gapgate.training.loop import train

NUM_GPUS_VARIABLE = "GAPGATE_NUM_GPUS"
"""Environment variable with the number of GPUs that the step asked of its cluster."""


def run(settings: TrainSettings, inputs: Mapping[str, Artifact], out_dir: Path, tracker: Tracker) -> Artifact:
    """Train on `inputs["splits"]` under `inputs["policy"]`; a training that was killed goes on from its last epoch.

    Raises:
        AcceleratorError: a GPU is asked for, by `train.accelerator: cuda` or of the cluster, and none is seen here;
            before anything is read.
        SettingsError: the architecture or batch size does not fit the images.
    """
    device.select("cuda" if int(os.environ.get(NUM_GPUS_VARIABLE, "0")) else settings.accelerator)
    splits, policy = inputs["splits"], inputs["policy"]
    content = {key: value for key, value in policy.read_json("policy.json").items() if key == "operations"}
    operations = parse(AugmentSettings, content, "augment").operations
    dumped = settings.model_dump(mode="json")
    key = artifacts.digest_of({"splits": splits.digest, "policy": policy.digest, "settings": dumped})
    with (
        _exclusive(checkpoint_dir(key)) as checkpoints,
        artifacts.create(out_dir, kind="model", step="train", settings=dumped, inputs=inputs) as folder,
    ):
        train(settings, Splits.open(splits.path), operations, folder, checkpoints, tracker)
    shutil.rmtree(checkpoints, ignore_errors=True)
    model = artifacts.load(out_dir, "model")
    tracker.tags({"model.digest": model.digest, "seed": str(settings.seed)})
    tracker.file(out_dir / "model.onnx", "model")
    return model


@contextmanager
def _exclusive(folder: Path) -> Iterator[Path]:
    """The checkpoint folder for this process alone; a second run of the same training at once gets a temporary one."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder.with_suffix(".lock")).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
                    yield Path(temporary)
            else:
                yield folder


def describe(model: Artifact) -> str:
    """A line for the terminal."""
    history = model.read_json("history.json")
    parameters = model.read_json("architecture.json")["num_parameters"]
    return f"{len(history)} epochs, {parameters:,} parameters, val accuracy {history[-1]['val_accuracy']:.1%}"
