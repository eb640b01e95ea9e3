"""Training: epochs over the training split, validation after each, and the best or last weights as the model.

Everything random in an epoch (order, augmentation, dropout) follows from `train.seed` and the epoch's number, and the
learning rate follows from the step's number. So a checkpoint needs no random state, and on a CPU a training that was
killed and resumed ends with the same bits as one that was not. The test split is never opened.
"""

from __future__ import annotations

import dataclasses
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from gapgate import artifacts
from gapgate.data.splits import Splits
from gapgate.errors import SettingsError
from gapgate.text import percent
from gapgate.tracking import Tracker
from gapgate.training import batches, checkpoint, sample
from gapgate.training.augmentation.policy import Operation
from gapgate.training.batches import Batches
from gapgate.training.learner import Learner, Progress
from gapgate.training.recipe import Recipe
from gapgate.training.trained import Trained

VALIDATION_BATCH_SIZE = 250
"""Number of images in a validation batch. With 1,000, a CPU took three times as long for an image, and 1.5 GB more."""
_PROGRESS_INTERVAL_S = 0.5


def fit(
    recipe: Recipe,
    splits: Splits,
    operations: Sequence[Operation],
    device: torch.device,
    checkpoint_dir: Path,
    tracker: Tracker,
    begun: Trained | None = None,
) -> Trained:
    """Train a network from random weights, or from the model `begun`.

    `checkpoint_dir` belongs to this training alone (its recipe and the digests of its inputs). After a kill, the same
    call continues from its checkpoint.

    Raises:
        SettingsError: the recipe does not fit the data, or the loss is not finite.
        StorageError: a checkpoint cannot be written.
    """
    with Learner(recipe, splits, operations, device, begun) as learner:
        train_data = batches.open_batches(splits, "train", device)
        val_data = batches.open_batches(splits, "val", device)
        identity = _identity(recipe, splits, operations)
        progress = _resume(checkpoint_dir, identity, learner, tracker)
        tracker.tags({f"train/{name}": str(value) for name, value in learner.environment().items()})
        while progress.epoch < recipe.epochs and not progress.is_out_of_patience(recipe.patience):
            figures = _epoch(learner, train_data, val_data, progress.epoch + 1, tracker)
            if sample.is_shown(progress.epoch + 1, recipe.epochs):
                sample.show(learner, val_data, splits.class_names, progress.epoch + 1, tracker)
            # First the best weights, then the checkpoint that holds them: a kill between the two repeats the epoch.
            if progress.add(figures):
                learner.keep_best()
            checkpoint.save(checkpoint_dir, identity, learner.tensors(), dataclasses.asdict(progress))
        mean, std = (begun.mean, begun.std) if begun else (splits.info["mean"], splits.info["std"])
        backbone = begun.backbone if begun else None
        facts = learner.environment()
        return Trained(recipe, learner.result(), mean, std, progress.history, facts, backbone, len(operations))


def train_epoch(
    learner: Learner, data: Batches, epoch: int, report: Callable[[int], None] = lambda steps: None
) -> tuple[float, float]:
    """Train one pass over `data`; `report` is called with the number of finished steps.

    Returns:
        The loss (with smoothing and class weights) and the accuracy, both means over the augmented batches while the
        weights change; a mixed image counts as the class of its larger part.
    """
    order = learner.start_epoch(epoch, len(data))
    first_step = (epoch - 1) * len(order)
    totals = torch.zeros(2, dtype=torch.float64, device=learner.device)
    for step, (images, labels) in enumerate(data.read(order)):
        totals += train_step(learner, images, labels, learner.learning_rate(first_step + step, len(order)))
        report(step + 1)
    return _means(totals, len(data))


def train_step(learner: Learner, images: Tensor, labels: Tensor, learning_rate: float) -> Tensor:
    """Train one step on images (n, H, W, C) uint8 and labels (n,) int64.

    Returns:
        [summed loss, number of correct answers], (2,) float64, on the device. Reading it here would make the CPU wait
        for the GPU in every step.
    """

    def forward_backward(model: nn.Module, generator: Generator, images: Tensor, labels: Tensor) -> Tensor:
        inputs, targets = learner.augmented(images, labels, generator)
        with learner.autocast():
            logits = model(inputs)  # (shard, num_classes)
        loss = learner.loss(logits, targets)
        # Divided by the size of the whole batch, not of the shard: the sum of the shards' gradients is the batch's.
        (loss / batch_size).backward()  # type: ignore[no-untyped-call]
        return _totals(loss, logits, targets)

    batch_size, shards = len(images), learner.shards
    shards.clear_gradients()
    totals = shards.map(forward_backward, shards.models, shards.generators, *shards.split(images, labels))
    learner.update(learning_rate)
    return torch.stack(totals).sum(0)


def validate(learner: Learner, data: Batches) -> tuple[float, float]:
    """Compute the mean cross-entropy (no smoothing, no class weights) and the accuracy of the model that would be kept,
    in evaluation mode on un-augmented images, in float32 as it will be served."""
    model, shards = learner.kept_model.eval(), learner.shards

    @torch.inference_mode()
    def score(images: Tensor, labels: Tensor) -> Tensor:
        logits = model(learner.normalised(images))  # (shard, num_classes)
        return _totals(functional.cross_entropy(logits, labels, reduction="sum"), logits, labels)

    # float64, because float32 counts no further than 2²⁴ images.
    totals = torch.zeros(2, dtype=torch.float64, device=learner.device)
    for images, labels in data.read(batches.in_order(len(data), VALIDATION_BATCH_SIZE * len(shards))):
        totals += torch.stack(shards.map(score, *shards.split(images, labels))).sum(0)
    return _means(totals, len(data))


def _epoch(learner: Learner, train_data: Batches, val_data: Batches, epoch: int, tracker: Tracker) -> dict[str, float]:
    """Train and validate one epoch; return its figures for the history."""
    epochs = learner.settings.epochs
    steps = batches.num_batches(len(train_data), learner.settings.batch_size)
    first_step = (epoch - 1) * steps
    report = _Throttled(lambda done: tracker.progress(first_step + done, epochs * steps, "batches"))
    started = time.perf_counter()
    train_loss, train_accuracy = train_epoch(learner, train_data, epoch, report)
    train_s = time.perf_counter() - started
    val_loss, val_accuracy = validate(learner, val_data)
    # Before the checkpoint is written: weights of NaN would replace the last good ones.
    _check_finite(learner.settings, epoch, train_loss, val_loss)
    figures = {
        "train_loss": train_loss,
        "train_accuracy": train_accuracy,
        "val_loss": val_loss,
        "val_accuracy": val_accuracy,
        "learning_rate": learner.learning_rate(first_step + steps - 1, steps),
    }
    speed = {"train/images_per_s": len(train_data) / train_s}
    tracker.metrics(metrics_of(figures) | speed | _system_facts(learner.device), step=epoch)
    note = f"epoch {epoch}/{epochs}, loss {train_loss:.3f}, val {percent(val_accuracy)}"
    tracker.progress(epoch * steps, epochs * steps, "batches", note)
    return {"epoch": epoch, **figures}


def metrics_of(figures: Mapping[str, float]) -> dict[str, float]:
    """An epoch of the history as metrics, `train/loss` and so on."""
    metrics = {name.replace("_", "/", 1): value for name, value in figures.items()}
    metrics["train/learning_rate"] = metrics.pop("learning/rate")
    metrics.pop("epoch", None)
    return metrics


def _resume(checkpoint_dir: Path, identity: str, learner: Learner, tracker: Tracker) -> Progress:
    """Restore the checkpoint of this training, if there is one; a checkpoint that cannot be used is only noted."""
    try:
        saved = checkpoint.load(checkpoint_dir, identity)
        if saved is None:
            return Progress()
        checkpoint.restore(learner.tensors(), saved.tensors)
    except checkpoint.CheckpointError as error:
        tracker.tags({"train/checkpoint": f"ignored: {error}"})
        return Progress()
    progress = Progress(**saved.progress)
    tracker.tags({"train/checkpoint": f"resumed after epoch {progress.epoch}"})
    return progress


def _identity(settings: Recipe, splits: Splits, operations: Sequence[Operation]) -> str:
    return artifacts.digest_of(
        {
            "settings": settings.model_dump(mode="json"),
            "operations": [operation.model_dump(mode="json") for operation in operations],
            "splits": splits.info,
        }
    )


def _totals(loss: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """Return [summed loss, number of correct answers], (2,) float64.

    `logits` is (n, num_classes); `targets` are classes (n,) or probabilities (n, num_classes).
    """
    classes = targets.argmax(1) if targets.is_floating_point() else targets
    correct = (logits.detach().argmax(1) == classes).sum()
    return torch.stack((loss.detach().double(), correct.double()))


def _means(totals: Tensor, num_images: int) -> tuple[float, float]:
    loss, correct = totals.tolist()
    return loss / num_images, correct / num_images


def _check_finite(settings: Recipe, epoch: int, *losses: float) -> None:
    if not all(map(math.isfinite, losses)):
        raise SettingsError(
            f"train.learning_rate={settings.learning_rate:g}: the loss is not finite in epoch {epoch}; "
            "lower train.learning_rate or set train.max_gradient_norm=1"
        )


def _system_facts(device: torch.device) -> dict[str, float]:
    """Return the largest memory that was held so far, in bytes."""
    # getrusage counts ru_maxrss in KiB on Linux and in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    facts = {"system/peak_memory_bytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)}
    if device.type == "cuda":
        facts["system/peak_gpu_memory_bytes"] = float(torch.cuda.max_memory_allocated(device))
    return facts


class _Throttled:
    """Function that passes a count on at most every half second."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report = report
        self._next = time.monotonic() + _PROGRESS_INTERVAL_S

    def __call__(self, done: int) -> None:
        if (now := time.monotonic()) >= self._next:
            self._next = now + _PROGRESS_INTERVAL_S
            self._report(done)
