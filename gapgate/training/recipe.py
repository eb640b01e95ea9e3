"""The settings of one training with every `auto` decided by the data."""

from __future__ import annotations

from gapgate.data.splits import Splits
from gapgate.settings.sections import FINETUNED_IMAGES, ONNX, TrainSettings

_STEPS_PER_EPOCH = 8


class Recipe(TrainSettings):
    """`TrainSettings` without `auto` in what the loop reads."""

    epochs: int
    batch_size: int
    learning_rate: float

    @property
    def name(self) -> str:
        """Name of the architecture; `layers` for a list."""
        return self.architecture if isinstance(self.architecture, str) else "layers"

    @property
    def is_pretrained(self) -> bool:
        """True if the training starts from a backbone."""
        return self.network == "pretrained"


def candidates(settings: TrainSettings, splits: Splits, *, has_gpu: bool) -> tuple[TrainSettings, ...]:
    """Return the settings of the trainings to try: more than one only for `architecture: auto`."""
    if settings.architecture != "auto":
        return (settings,)
    names = ["small"] if splits.network == "scratch" else ["frozen"]
    # On a CPU, fine-tuning for each fold as well would take an hour where the frozen features take seconds.
    is_affordable = (has_gpu or not splits.num_folds) and not settings.backbone.endswith(ONNX)
    if splits.network == "pretrained" and is_affordable and len(splits.rows("train")) >= FINETUNED_IMAGES:
        names.append("finetune")
    return tuple(settings.model_copy(update={"architecture": name}) for name in names)


def decided(settings: TrainSettings, splits: Splits) -> Recipe:
    """Decide the numbers that are `auto` for the training images of `splits`."""
    if isinstance(settings, Recipe):
        return settings
    num_images = len(splits.rows("train"))
    epochs, batch_size, learning_rate = (8, 32, 0.001) if settings.architecture == "finetune" else (20, 64, 0.003)
    # Powers of two, down to 8, so that an epoch has some steps.
    while batch_size > 8 and num_images < _STEPS_PER_EPOCH * batch_size:
        batch_size //= 2
    numbers = {
        "epochs": epochs if settings.epochs == "auto" else settings.epochs,
        "batch_size": min(batch_size if settings.batch_size == "auto" else settings.batch_size, num_images),
        "learning_rate": learning_rate if settings.learning_rate == "auto" else settings.learning_rate,
    }
    return Recipe.model_construct(**(settings.model_dump() | {"architecture": settings.architecture} | numbers))
