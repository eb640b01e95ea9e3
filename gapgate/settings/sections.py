"""All settings with their units, defaults and limits; `gapgate.settings.parsing` reads them from `params.yaml`.

A step receives its own section and nothing else, so that changing a setting re-runs what depends on it and no more.
"""

from __future__ import annotations

import re
import warnings
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from gapgate.network.architecture import Layer, check_name
from gapgate.settings.base import Count, Fraction, Section
from gapgate.text import shortened
from gapgate.training.augmentation.policy import Operation, Rotate, Scale, Translate

ONNX = ".onnx"
"""Suffix of a backbone that ONNX Runtime computes, so that it cannot be trained further."""
FINETUNED_IMAGES = 500
"""Number of training images from which on fine-tuning is tried. With fewer, the features of a backbone and a linear
layer are as good within noise, in seconds (Kornblith et al. 2019, "Do better ImageNet models transfer better?", figure
7)."""


class Reading(Section):
    """Answers to what the files of a data set leave open."""

    class_names: str | tuple[str, ...] | dict[str, str] = ()
    """Names of the classes: a list with that of label 0 first, a mapping from label to name, or a file with either (a
    name a line, JSON or YAML)."""
    path_column: str = ""
    """Column of a table with the image's path, by name or, counted from 1, by number; empty: one of the usual names."""
    label_column: str = ""
    """Column of a table with the label, by name or number; empty: one of the usual names."""
    splits: Literal["auto", "none"] | dict[str, Literal["train", "val", "test", "out"]] = "auto"
    """Splits by the folder's name; auto: by the usual names; none: every folder is a class; out: a folder left out."""
    alike_classes: Literal["ask", "merge", "keep"] = "ask"
    """Classes whose names differ by case, spaces or the form of a number (1, 1.0): ask stops the run, merge makes them
    one class, keep takes them as they are."""


class DataSettings(Reading):
    """Data that the ingest step takes."""

    source: str = ""
    """A folder, a file, or the name of a built-in data set (`digits`, `shapes`); empty: what DVC tracks at `path`."""
    repository: str = "."
    """The git repository whose `.dvc` file names the data: a folder or a URL."""
    revision: str = ""
    """Git revision of the `.dvc` file; empty: the workspace as it is."""
    path: str = "data"
    """Path that DVC tracks in that repository."""


class PreprocessSettings(Section):
    """Decoding image files to arrays of one size, and splitting them."""

    network: Literal["auto", "scratch", "pretrained"] = "auto"
    """Kind of network that the images are prepared for; auto: pretrained for photos, scratch for small images (shorter
    side mostly at most 40 px, or 64 px where all are gray). A named `train.architecture` decides it."""
    size_px: Annotated[int, Field(ge=8, le=512)] | Literal["auto"] = "auto"
    """Side of the square images. Auto, pretrained: 224, or 128 for more than 2,000 images or where the shorter side is
    mostly below 160 px. Auto, scratch: the source's own size where 256 images of all places share one of 8 to
    224 px, else 64, or less where the longer side is mostly shorter."""
    mode: Literal["auto", "gray", "rgb"] = "auto"
    """Channels: gray has 1, rgb has 3; auto: gray if 256 images of all places are."""
    fit: Literal["auto", "pad", "crop"] = "auto"
    """An image that is not square is padded to a square with `fill`, or cropped to its central square; auto: cropped
    for a pretrained network, which also takes off the border that its training images lost, else padded."""
    fill: Annotated[int, Field(ge=0, le=255)] | Literal["auto"] = "auto"
    """Pixel value of the padding, and behind transparent pixels; auto: 255 where the images are dark drawings on a
    transparent background, which 0 would hide, else 0."""
    resample: Literal["auto", "nearest", "bilinear", "bicubic", "lanczos"] = "auto"
    """Filter of the resizing (antialiased when it shrinks); auto: bicubic for a pretrained network, else bilinear."""
    evidence: Literal["auto", "holdout", "cross_validation"] = "auto"
    """Way in which images are kept for the measurement: a test split, or folds of which each is held out once; auto:
    folds below 1,500 images without a test split of their own. A named `evaluate.method` decides it."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the images for testing, unless the data set brings its own test split; unused with folds."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the images that are not for testing, for validation, unless the data set brings its own split."""
    stratify: bool | Literal["auto"] = "auto"
    """False: an image's split depends on its own content alone and never changes. True: the same shares in every class
    exactly, and an image near the border may change its split when the data set grows. Auto: true where a class has
    fewer than 100 images."""
    salt: str = ""
    """Text that is mixed into the split's hash; another salt gives another split."""
    min_class_images: Annotated[int, Field(ge=0)] = 0
    """Fewest images of each class in each split; with fewer the run stops. The gate says which class has too few to
    judge."""
    max_rejects: Annotated[int, Field(ge=0)] = 10
    """Most unreadable images; with more the run fails."""
    max_pixels: Count = 50_000_000
    """An image with more pixels is rejected before it is decoded."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that decode; 0: one for each processor this process may use."""
    groups: Annotated[str, Field(min_length=1)] = "auto"
    """Images that stay in one split beside the groups of the source. Auto: bursts of one camera by EXIF time, frames
    and numbered series by file name, and near-duplicates; none: no others; else a regular expression, whose first group
    (or whole match) in an image's id names its group, with near-duplicates."""

    @model_validator(mode="after")
    def _train_is_left(self) -> PreprocessSettings:
        if self.test_fraction + self.val_fraction >= 1:
            raise ValueError("test_fraction + val_fraction must stay below 1, or nothing is left to train on")
        return self

    @field_validator("groups")
    @classmethod
    def _is_expression(cls, groups: str) -> str:
        try:
            with warnings.catch_warnings():
                # Of `[[`, which a later Python may read in another way, with a line of this file: no use to its reader.
                warnings.simplefilter("ignore", FutureWarning)
                re.compile(groups)
        # The last two are for numbers of repetitions and for depths that Python's parser does not take.
        except (re.error, OverflowError, RecursionError) as error:
            said = f"{shortened(groups, 200)!r} is no regular expression ({error})"
            raise ValueError(f"{said}; mend it, or use auto or none") from None
        return groups


class AugmentSettings(Section):
    """Augmentation of the training batches; validation and evaluation use none."""

    operations: tuple[Operation, ...] = (Translate(max_fraction=0.1), Rotate(max_degrees=8.0), Scale(max_change=0.1))
    """Operations, applied in this order and drawn afresh for each image in each epoch."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the preview and of `materialize`; training draws from `train.seed`."""
    preview_images: Count = 8
    """Images on the preview sheet."""
    materialize: Annotated[int, Field(ge=0)] = 0
    """Augmented copies of each training image to write as files; 0: none."""


class TrainSettings(Section):
    """The network, the optimizer and the loop."""

    architecture: str | Annotated[tuple[Layer, ...], Field(min_length=1)] = "auto"
    """The name of a preset, `torchvision/NAME` (resnet18, …), or a list of layers, trained from random weights.
    `frozen`: the features of `backbone` and a new last layer; `finetune`: all its layers, from there. Auto: `small` for
    small images; for photos `frozen`, and from 500 training images on `finetune` where val says that it is better (with
    cross-validation only on a GPU)."""
    backbone: str = "efficientnet_lite0"
    """Pretrained network of `frozen` and `finetune`: efficientnet_lite0 (installed with Gapgate), efficientnet_lite1 or
    2, torchvision/NAME, or the path of a Model's weights.safetensors or, for `frozen`, of an ONNX file."""
    pretrained: bool = False
    """True: start from torchvision's weights (downloaded once)."""
    epochs: Annotated[int, Field(ge=1, le=10_000)] | Literal["auto"] = "auto"
    """Passes over the training images; auto: 20, and 8 for `finetune`."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] | Literal["auto"] = "auto"
    """Images in a training step, at most all of them; auto: 64 (32 for `finetune`), and fewer where an epoch would have
    less than 8 steps."""
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    """AdamW (Loshchilov and Hutter 2017); Muon (Jordan et al. 2024) for convolutions, with AdamW for the rest; or SGD
    with Nesterov momentum."""
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """Peak learning rate; auto: 0.003, and 0.001 for `finetune`, whose lower layers learn at a tenth of it."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD; AdamW has (0.9, 0.999), Muon 0.95."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay of weights; biases and normalisation have none."""
    schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
    """Warm-up and half a cosine to zero; one cycle (Smith 2018); or no change."""
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps in which the learning rate rises."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target spread over all classes."""
    class_weights: Literal["none", "balanced"] = "none"
    """Balanced: each class weighs N / (classes × its images) in the loss."""
    max_gradient_norm: Annotated[float, Field(ge=0)] = 0.0
    """Largest global norm of the gradients, which are scaled down to it; 0: no limit."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Epochs without a gain in validation loss before training stops; 0: never. The best epoch's weights are kept."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of the moving average of the weights, which becomes the model; 0: no average."""
    flip_average: bool = False
    """True: the model answers with the mean of its logits for an image and its mirror image. It doubles the work, and
    suits a network that was trained on both."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Device for training; auto: the GPU if there is one."""
    amp: Literal["auto", "on", "off"] = "auto"
    """bfloat16 autocast; auto: on where the device has it in hardware (GPUs; CPUs with AMX or AVX-512 BF16, but not for
    grouped convolutions)."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """NHWC memory; auto: on, it is faster on both devices."""
    compile: bool = False
    """True: use torch.compile, which is slower for small networks on a CPU."""
    num_shards: Count = 2
    """Parts of a batch that are computed side by side on a CPU, with at least 16 images each. Another number gives
    other bits; with more than 2, more processors are of use."""
    num_threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads, at most one for each shard; 0: as many as the CPU quota of this process. Their number changes the
    speed alone (with `compile`, the bits too)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of weights, shuffling, augmentation and dropout. On CPUs with the same instruction set the same seed gives
    the same bits."""

    @model_validator(mode="after")
    def _check_architecture(self) -> TrainSettings:
        if isinstance(self.architecture, str) and self.architecture not in ("auto", "frozen", "finetune"):
            check_name(self.architecture)
        return self

    @model_validator(mode="after")
    def _check_backbone(self) -> TrainSettings:
        if self.architecture == "finetune" and self.backbone.endswith(ONNX):
            raise ValueError(
                f"train.architecture=finetune cannot train the ONNX file {self.backbone} further; set it to frozen, or "
                "name a weights.safetensors"
            )
        return self

    @property
    def network(self) -> Literal["auto", "scratch", "pretrained"]:
        """Kind of network: one with a backbone is pretrained."""
        if self.architecture == "auto":
            return "auto"
        return "pretrained" if self.architecture in ("frozen", "finetune") else "scratch"


class EvaluateSettings(Section):
    """Measurement of the ONNX file, or of the models of the folds."""

    method: Literal["auto", "holdout", "cross_validation"] = "auto"
    """Holdout: on the test split, which no model has seen. Cross-validation: each image is answered by a model of the
    same training that has not seen it. Auto: cross-validation below 1,500 images without a test split of their own."""
    max_train_images: Count = 20_000
    """A larger training split is measured on a seeded sample of this size."""
    batch_size: Count = 250
    """Images in each call of ONNX Runtime."""
    confidence_level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence level of every interval."""
    num_resamples: Annotated[int, Field(ge=1000, le=1_000_000)] = 10_000
    """Bootstrap resamples."""
    calibration_bins: Annotated[int, Field(ge=2, le=100)] = 15
    """Bins of the expected calibration error."""
    worst_errors: Annotated[int, Field(ge=0, le=400)] = 40
    """Images in the grid of confident mistakes."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the sample and the bootstrap."""


class GateSettings(Section):
    """Limits that a model has to keep."""

    max_gap_points: float = 3.0
    """Largest gap between train and test accuracy, in percentage points; it passes where the whole interval is below,
    and is undecided where a part of it is."""
    min_test_accuracy: Fraction = 0.8
    """Smallest test accuracy; it passes where the whole interval is above, and is undecided where a part of it is."""
    min_class_recall: Fraction = 0.5
    """Smallest recall of any class on test; undecided where a class has fewer than 5 judged images."""
    max_ece: Fraction = 0.1
    """Largest expected calibration error on test."""
    max_parity: Annotated[float, Field(gt=0)] = 1e-4
    """Largest difference of a logit between ONNX Runtime and PyTorch; where the largest logit is above 1, as a share of
    it."""
    max_leaked_share: Fraction = 0.05
    """Largest share of the val and test images that have a copy in another given split, or whose pixels occur with
    another label."""


class RegistrySettings(Section):
    """Place of the model in the registry."""

    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")] = "gapgate"
    """Name of the model in the registry."""


class PackageSettings(Section):
    """Content of the package beside the model."""

    similar_images: Annotated[int, Field(ge=0)] = 100_000
    """Training images in the index of similar images, as embeddings and thumbnails; of more a stratified sample. 0: no
    index, and no training image leaves with the package."""
    thumbnail_px: Annotated[int, Field(ge=8, le=64)] = 32
    """Side of a thumbnail."""


class TrackingSettings(Section):
    """Display of the run in MLflow and TensorBoard."""

    experiment: Annotated[str, Field(min_length=1)] = "gapgate"
    """Name of the MLflow experiment."""
    tensorboard: bool = False
    """True: event files for TensorBoard are written beside the run."""


class Settings(Section):
    """The whole of `params.yaml`."""

    data: DataSettings = DataSettings()
    """Data."""
    preprocess: PreprocessSettings = PreprocessSettings()
    """Files → arrays and splits."""
    augment: AugmentSettings = AugmentSettings()
    """Augmentation of the training batches."""
    train: TrainSettings = TrainSettings()
    """Network, optimizer, loop."""
    evaluate: EvaluateSettings = EvaluateSettings()
    """Measurement of the model."""
    gate: GateSettings = GateSettings()
    """Limits that a model has to keep."""
    registry: RegistrySettings = RegistrySettings()
    """Place of the model in the registry."""
    package: PackageSettings = PackageSettings()
    """Content of the package beside the model."""
    tracking: TrackingSettings = TrackingSettings()
    """Display of the run."""

    @model_validator(mode="after")
    def _preprocess_as_later_steps_need(self) -> Settings:
        named = {"network": self.train.network, "evidence": self.evaluate.method}
        # What *preprocess* leaves open and a later step names.
        decided = {name: value for name, value in named.items() if getattr(self.preprocess, name) == "auto" != value}
        if decided:
            # The only way to change a frozen model that is being built.
            object.__setattr__(self, "preprocess", self.preprocess.model_copy(update=decided))
        return self
