"""train: Splits and Policy → a Model, resuming from its own checkpoints."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from components.facts import Facts
from components.platform.earlier_models import model_of_interrupted_run
from components.platform.tracking import system_metrics
from components.platform.workspace import checkpoint_dir, features_dir
from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.data.splits import Splits
from gapgate.errors import storage_errors
from gapgate.settings import parse
from gapgate.settings.sections import AugmentSettings, TrainSettings
from gapgate.text import percent
from gapgate.tracking import Tracker
from gapgate.training import device
from gapgate.training.checkpoint import DAMAGED
from gapgate.training.fit import train
from gapgate.training.loop import metrics_of
from gapgate.training.trained import kept_epoch

NUM_GPUS_VARIABLE = "GAPGATE_NUM_GPUS"
"""Environment variable with the number of GPUs that the step asked of its cluster."""


def run(settings: TrainSettings, inputs: Mapping[str, Artifact], folder: Path, tracker: Tracker) -> Facts:
    """Train on `inputs["splits"]` with the operations of `inputs["policy"]`; a killed training resumes, and
    the finished model of a run that was killed later is used.

    Raises:
        AcceleratorError: a GPU is asked for, by `train.accelerator: cuda` or of the cluster, and none is seen here;
            before anything is read.
        SettingsError: the architecture or batch size does not fit the images.
    """
    # Before the splits are read: a pod without the GPU that it asked for must not train for hours on the CPU.
    device.select("cuda" if int(os.environ.get(NUM_GPUS_VARIABLE, "0")) else settings.accelerator)
    splits, policy = inputs["splits"], inputs["policy"]
    content = {key: value for key, value in policy.read_json("policy.json").items() if key == "operations"}
    operations = parse(AugmentSettings, content, "augment").operations
    if finished := model_of_interrupted_run(settings.model_dump(mode="json"), inputs):
        shutil.copytree(finished.path, folder, ignore=lambda *_: [artifacts.MANIFEST], dirs_exist_ok=True)
        for epoch in artifacts.read_json(folder / "history.json"):
            tracker.metrics(metrics_of(epoch), step=epoch["epoch"])
        run = finished.manifest.run
        return _facts(folder, settings, [f"the model of run {run} is used, which ended after its training"])
    # The same key means the same training, so a retry in another pod finds the checkpoints on the shared volume.
    key = artifacts.digest_of(
        {"splits": splits.digest, "policy": policy.digest, "settings": settings.model_dump(mode="json")}
    )
    with _exclusive(checkpoint_dir(key)) as checkpoints:
        with system_metrics.sampled(tracker):
            train(settings, Splits.open(splits.path), operations, folder, checkpoints, tracker, features_dir())
        damaged = len(list(checkpoints.rglob(DAMAGED)))
    notes = [f"checkpoints of an earlier try that were damaged and not used: {damaged}"] if damaged else []
    return _facts(folder, settings, notes, lambda: shutil.rmtree(checkpoints, ignore_errors=True))


def _facts(
    folder: Path, settings: TrainSettings, notes: list[str], when_complete: Callable[[], None] = lambda: None
) -> Facts:
    history = artifacts.read_json(folder / "history.json")
    parameters = artifacts.read_json(folder / "architecture.json")["num_parameters"]
    recipe = artifacts.read_json(folder / "recipe.json")
    trained = recipe["name"] if recipe["name"] == "frozen" else f"{recipe['name']}, {len(history)} epochs"
    kept = kept_epoch(history, settings.patience)
    return Facts(
        summary=f"{trained}, {parameters:,} parameters, val {percent(kept['val_accuracy'])}",
        notes=notes,
        details=[recipe["why"]] if recipe["why"] else [],
        tags={"seed": str(settings.seed)},
        files={"model.onnx": "model"},
        when_complete=when_complete,
    )


@contextmanager
def _exclusive(folder: Path) -> Iterator[Path]:
    """Lock the checkpoint folder for this process; a second process with the same training gets a temporary folder."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(FileLock(folder.with_suffix(".lock"), blocking=False))
            # Two writers would mix their checkpoints; waiting would take as long as the other training.
            except Timeout:
                folder = Path(held.enter_context(tempfile.TemporaryDirectory(dir=folder.parent)))
            yield folder
