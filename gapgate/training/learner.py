"""The state that training changes: the network, its optimizer and averages; and the settings applied to them."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from gapgate.data.splits import Splits
from gapgate.errors import SettingsError
from gapgate.network import architecture, backbones, modules
from gapgate.network.modules import set_generator
from gapgate.process import cpu_quota
from gapgate.settings.sections import TrainSettings
from gapgate.training import batches
from gapgate.training import device as devices
from gapgate.training.augmentation import operations as augmentation
from gapgate.training.augmentation.policy import Flip, Operation
from gapgate.training.data_parallel import Shards, count_shards
from gapgate.training.optimization import optimizers
from gapgate.training.optimization.schedules import lr_at
from gapgate.training.optimization.weight_average import WeightAverage
from gapgate.training.recipe import Recipe, decided
from gapgate.training.trained import Trained

LOWER_LAYERS_RATE = 0.1
"""Share of the learning rate with which the layers of a backbone learn."""


class Learner:
    """All steps from a batch to the changed weights. A context manager, since it owns threads and torch's thread count.

    Raises:
        SettingsError: the settings do not fit the data or each other.
        AcceleratorError: the settings ask for bfloat16 on a device without it.
    """

    def __init__(
        self,
        settings: TrainSettings,
        splits: Splits,
        operations: Sequence[Operation],
        device: torch.device,
        begun: Trained | None = None,
    ) -> None:
        """Begin with random weights, or with those of the model `begun`, which keeps its batch normalisation's
        statistics."""
        self.settings = settings = decided(settings, splits)
        self.device = device
        self._memory_format = devices.memory_format(settings.channels_last)
        self._num_threads = settings.num_threads or cpu_quota.available_cpus()
        self._resources = ExitStack()

        self.image_shape, self.num_classes = splits.image_shape, len(splits.class_names)
        torch.manual_seed(settings.seed)
        if begun is None:
            self.model = build_model(settings, self.image_shape, self.num_classes, pretrained=settings.pretrained)
        else:
            self.model = copy.deepcopy(begun.model)
        self._is_begun = begun is not None
        self._bfloat16 = devices.uses_bfloat16(settings.amp, device, self.model)
        _check_batch_size(settings, self.model, len(splits.rows("train")))
        _check_flip(settings, operations)
        self.model.to(device).to(memory_format=self._memory_format)
        self.optimizer = _optimizer(settings, self.model, self._is_begun)
        self.average = WeightAverage(self.model, settings.ema_decay) if settings.ema_decay else None
        self.best = _copied_state(self.model) if settings.patience else None

        # A compiled network runs as one shard: compiling is done for the first model only.
        num_shards = 1 if settings.compile else count_shards(settings.num_shards, settings.batch_size, device)
        self.shards = Shards(self.model, num_shards, device, self._num_threads)
        if settings.compile:
            self.model.compile()
        mean, std = (splits.info["mean"], splits.info["std"]) if begun is None else (begun.mean, begun.std)
        self.mean, self.std = (torch.tensor(values, device=device) for values in (mean, std))  # (C,) each
        self._augment = augmentation.compile_policy(operations, self.num_classes)
        self._class_weights = _class_weights(settings, splits, device)

    def __enter__(self) -> Learner:
        devices.keep_freed_memory()
        self._resources.enter_context(self.shards)
        # One thread an operation: the sums of more have other bits.
        self._resources.enter_context(devices.cpu_threads(self._num_threads if self.settings.compile else 1))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.close()

    @property
    def kept_model(self) -> nn.Module:
        """Network that validation judges: the averaged one if there is one."""
        return self.model if self.average is None else self.average.model

    def start_epoch(self, epoch: int, num_images: int) -> list[Tensor]:
        """Seed every random stream for an epoch, counted from 1, and draw its batches: indices (batch,)
        int64 into the train split."""
        self.shards.copy_statistics()
        for model in self.shards.models:
            model.train()
            if self._is_begun:
                _freeze_statistics(model)
        # Streams: 0 for modules that draw from torch's global generator, 1 for the order, from 2 on one for each shard.
        # Shards with equal seeds would augment their images in the same way.
        torch.manual_seed(self._seed_of(epoch, 0))
        for shard, generator in enumerate(self.shards.generators):
            generator.manual_seed(self._seed_of(epoch, 2 + shard))
        order = torch.Generator().manual_seed(self._seed_of(epoch, 1))
        return batches.shuffled(num_images, self.settings.batch_size, order)

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """Compute the learning rate of a step, counted from 0 over the whole training."""
        total_steps = self.settings.epochs * steps_per_epoch
        return lr_at(
            step, total_steps, self.settings.learning_rate, self.settings.schedule, self.settings.warmup_fraction
        )

    def augmented(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augment and normalise images (n, H, W, C) uint8 with labels (n,).

        Returns:
            Images (n, C, H, W) float32, and targets (n,) int64 or (n, num_classes) float32.
        """
        values, targets = self._augment(modules.to_float(images), labels, generator)
        return self._laid_out(modules.standardise(values, self.mean, self.std)), targets

    def normalised(self, images: Tensor) -> Tensor:
        """Normalise images (n, H, W, C) uint8 to (n, C, H, W) float32, as the served model does."""
        return self._laid_out(modules.normalise(images, self.mean, self.std))

    def autocast(self) -> AbstractContextManager[None]:
        """Return a context in which torch computes in bfloat16, if it is used."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the summed cross-entropy of logits (n, num_classes), a scalar in float32, with label smoothing
        (Szegedy et al. 2016) and class weights; `targets` are those of `augmented`."""
        # The sum, which the caller divides by the number of images. For class labels torch's own mean divides by the
        # sum of their weights, so an image's share of the loss would depend on the classes in its batch.
        return functional.cross_entropy(
            logits.float(),
            targets,
            weight=self._class_weights,
            label_smoothing=self.settings.label_smoothing,
            reduction="sum",
        )

    def update(self, learning_rate: float) -> None:
        """Change the weights by the gradients of all shards, and update the averaged weights."""
        self.shards.merge()
        if self.settings.max_gradient_norm:
            # The global L2 norm, as in Pascanu et al. 2013.
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_gradient_norm)
        self.optimizer.step(learning_rate)
        if self.average is not None:
            self.average.update()

    @torch.no_grad()
    def keep_best(self) -> None:
        """Keep the present weights as those with which the training ends, until the next call."""
        if self.best is not None:
            for name, tensor in self.kept_model.state_dict().items():
                self.best[name].copy_(tensor)

    def result(self) -> nn.Module:
        """Return the trained network, on the CPU, in evaluation mode and in contiguous memory format."""
        model = copy.deepcopy(self.model).cpu().to(memory_format=torch.contiguous_format)
        model.load_state_dict(self.kept_model.state_dict() if self.best is None else self.best)
        set_generator(model, None)
        return model.eval()

    def tensors(self) -> dict[str, Tensor]:
        """Return the live tensors that a checkpoint holds; copying into them restores the state."""
        parts = {"model": self.model.state_dict(), "optimizer": self.optimizer.tensors(), "best": self.best or {}}
        parts["average"] = self.average.tensors() if self.average else {}
        return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def environment(self) -> dict[str, Any]:
        """Facts about the environment on which the bits of the result depend, beside the settings and the data."""
        return devices.environment(self.device) | {
            "num_shards": len(self.shards),
            "bfloat16": self._bfloat16,
            "memory_format": str(self._memory_format).removeprefix("torch."),
        }

    def _laid_out(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=self._memory_format)

    def _seed_of(self, epoch: int, stream: int) -> int:
        # SeedSequence mixes the three numbers so that neighbouring seeds and epochs give unrelated streams; a sum such
        # as seed + epoch would give epoch 2 of seed 0 the stream of epoch 1 of seed 1.
        return int(np.random.SeedSequence((self.settings.seed, epoch, stream)).generate_state(1, np.uint64)[0])


@dataclass(slots=True)
class Progress:
    """Progress of a training: the finished epochs and the best of them."""

    history: list[dict[str, float]] = field(default_factory=list)
    """Figures of each finished epoch."""
    best_epoch: int = 0
    """Epoch of the smallest validation loss, counted from 1; 0 before the first."""
    best_loss: float = math.inf
    """Smallest validation loss."""

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.history)

    def add(self, figures: dict[str, float]) -> bool:
        """Append an epoch; return True if it is the best so far."""
        self.history.append(figures)
        if figures["val_loss"] < self.best_loss:
            self.best_epoch, self.best_loss = self.epoch, figures["val_loss"]
        return self.best_epoch == self.epoch

    def is_out_of_patience(self, patience: int) -> bool:
        """Return True if early stopping ends the training here (Prechelt 1998)."""
        return patience > 0 and self.epoch - self.best_epoch >= patience


def build_model(
    settings: TrainSettings, image_shape: architecture.ImageShape, num_classes: int, *, pretrained: bool
) -> nn.Module:
    """Build the network that the settings name, on the CPU.

    Raises:
        SettingsError: the layers do not fit each other, the images or the classes.
    """
    if (name := architecture.torchvision_name(settings.architecture)) is not None:
        return modules.build_torchvision(name, image_shape, num_classes, pretrained)
    if pretrained:
        raise SettingsError(
            "train.pretrained=true but only train.architecture=torchvision/NAME has such weights; set it to false"
        )
    layers = architecture.resolve(settings.architecture, image_shape, num_classes)
    return modules.build(layers, image_shape, num_classes)


def _optimizer(settings: Recipe, model: nn.Module, is_begun: bool) -> optimizers.Optimizer:
    """Build the optimizer; the layers below the last one of a trained model learn at a lower rate (discriminative
    fine-tuning, Howard and Ruder 2018)."""
    if not is_begun:
        return optimizers.build(settings, list(model.parameters()))
    last = backbones.head_of(model)[1]
    # By identity: `in` compares tensors by their elements.
    head = {id(parameter) for parameter in last.parameters()}
    below = [parameter for parameter in model.parameters() if id(parameter) not in head]
    return optimizers.Scaled(
        (
            (optimizers.build(settings, list(last.parameters())), 1.0),
            (optimizers.build(settings, below), LOWER_LAYERS_RATE),
        )
    )


def _freeze_statistics(model: nn.Module) -> None:
    """Let batch normalisation use and keep the statistics of its own training: those of small batches are noise."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def _check_batch_size(settings: Recipe, model: nn.Module, num_images: int) -> None:
    size = settings.batch_size
    # In training, batch normalisation after `flatten` needs two values of a feature for a variance; torch raises an
    # error for one image. Batches differ by one image at most, so the smallest has num_images // num_batches.
    has_batch_norm = any(isinstance(module, _BatchNorm) for module in model.modules())
    if has_batch_norm and num_images // batches.num_batches(num_images, size) < 2:
        raise SettingsError(
            f"train.batch_size={size} makes a batch of one image, which batch_norm cannot take; raise train.batch_size"
        )


def _check_flip(settings: TrainSettings, operations: Sequence[Operation]) -> None:
    is_flipped = any(isinstance(one, Flip) and one.axis == "horizontal" and one.probability for one in operations)
    if settings.flip_average and not is_flipped:
        raise SettingsError(
            "train.flip_average=true asks a network about mirror images that it has not seen; "
            "add {type: flip} to augment.operations or set it to false"
        )


def _class_weights(settings: TrainSettings, splits: Splits, device: torch.device) -> Tensor | None:
    """Compute the class weights N / (num_classes × images of the class), (num_classes,) float32, or None.

    Their mean over the images is 1, so the learning rate keeps its meaning.
    """
    if settings.class_weights == "none":
        return None
    labels = splits.labels[splits.rows("train")]
    counts = np.bincount(labels, minlength=len(splits.class_names)).clip(min=1)
    return torch.tensor(len(labels) / (len(counts) * counts), dtype=torch.float32, device=device)


def _copied_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
