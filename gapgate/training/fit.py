"""Fit of a Model to settings: tries the recipes that the settings allow, and keeps the one that val prefers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from gapgate.data.splits import Splits
from gapgate.errors import DataError
from gapgate.evidence.measures.folds import FoldAnswers
from gapgate.network import backbones
from gapgate.network.backbones import Backbone
from gapgate.settings.sections import TrainSettings
from gapgate.text import percent
from gapgate.tracking import NullTracker, Tracker
from gapgate.training import device as devices
from gapgate.training import loop, model_artifact
from gapgate.training.augmentation.policy import Operation
from gapgate.training.pretrained import features, linear_head
from gapgate.training.recipe import Recipe, candidates, decided
from gapgate.training.trained import Trained


def train(
    settings: TrainSettings,
    splits: Splits,
    operations: Sequence[Operation],
    out_dir: Path,
    checkpoint_dir: Path,
    tracker: Tracker = NullTracker(),  # noqa: B008 (it has no state)
    feature_cache: Path | None = None,
) -> None:
    """Train the network of `settings` and write the files of a Model artifact into `out_dir`, an existing folder.

    `checkpoint_dir` lies outside `out_dir` and belongs to this training alone (its settings and the digests of its
    inputs). After a kill, the same call continues from its checkpoint. The caller removes the folder once the model is
    stored. `feature_cache` is a folder that all trainings share; None keeps the features with the checkpoints.

    Raises:
        DataError: train or val has no images.
        SettingsError: the settings do not fit the data or each other, or the loss is not finite.
        AcceleratorError: the accelerator is missing; nothing was read.
        StorageError: a checkpoint cannot be written.
    """
    device = devices.select(settings.accelerator)
    for name in ("train", "val"):
        if not len(splits.rows(name)):
            raise DataError(f"{name} has no images; add images, or raise preprocess.val_fraction for val")
    # Training seeds torch's global generators; the caller gets them back as they were.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        job = _Job(splits, operations, device, checkpoint_dir, feature_cache or checkpoint_dir, tracker)
        tried = candidates(settings, splits, has_gpu=device.type == "cuda")
        fitted = job.fit_all(tried)
        answers = job.cross_validate(tried) if splits.num_folds else []
        # Folds, where there are some: they are made for small data, whose val of a few images cannot tell two
        # trainings apart.
        scores = [one.score(splits) for one in answers] or [one.val_score for one in fitted]
        kept = choose(scores)
        recipe = fitted[kept].recipe
        tracker.tags({"train/architecture": recipe.name})
        decisions = {"architecture": recipe.name} | recipe.model_dump(include={"epochs", "batch_size", "learning_rate"})
        tracker.params({f"resolved.train.{name}": value for name, value in decisions.items()})
        told = [{"architecture": one.recipe.name, **score} for one, score in zip(fitted, scores, strict=True)]
        model_artifact.write(out_dir, splits, fitted[kept], told, _in_words(told, kept, bool(answers)))
        if answers:
            answers[kept].write(out_dir)


def choose(scores: Sequence[Mapping[str, float]]) -> int:
    """Return the index of the training that is kept, by loss and accuracy on images that it has not seen: a later one
    only if its loss is lower and its accuracy no worse."""
    kept = 0
    for at, score in enumerate(scores):
        if score["loss"] < scores[kept]["loss"] and score["accuracy"] >= scores[kept]["accuracy"]:
            kept = at
    return kept


def _in_words(tried: Sequence[Mapping[str, Any]], kept: int, is_folded: bool) -> str:
    """One line on the trainings that were tried, and why one was kept; empty where there was no choice."""
    if len(tried) < 2:
        return ""
    figures = ", ".join(f"{one['architecture']} {percent(one['accuracy'])} (loss {one['loss']:.3f})" for one in tried)
    return f"tried on {'the held-out folds' if is_folded else 'val'}: {figures}; kept {tried[kept]['architecture']}"


@dataclass(frozen=True, slots=True)
class _Job:
    """Parts that all recipes for one model share."""

    splits: Splits
    operations: Sequence[Operation]
    device: torch.device
    checkpoint_dir: Path
    feature_cache: Path
    tracker: Tracker

    def fit_all(self, tried: Sequence[TrainSettings]) -> list[Trained]:
        """Train with one settings after the other; fine-tuning begins with the model of a frozen backbone."""
        fitted: list[Trained] = []
        for settings in tried:
            recipe = decided(settings, self.splits)
            if not recipe.is_pretrained:
                fitted.append(self._fit_network(recipe, None))
                continue
            # `candidates` has frozen before finetune, which begins with its last layer.
            frozen = fitted[-1] if fitted else self._fit_head(recipe)
            fitted.append(frozen if recipe.architecture == "frozen" else self._fit_network(recipe, frozen))
        return fitted

    def cross_validate(self, tried: Sequence[TrainSettings]) -> list[FoldAnswers]:
        """Train once more for each fold, on the images outside of it; return what the models of each of the settings
        answer for all images."""
        rows, num_folds = self.splits.in_folds(), self.splits.num_folds
        shape = (num_folds, len(rows), len(self.splits.class_names))  # as FoldAnswers.logits
        found = [FoldAnswers(rows, np.empty(shape, np.float32)) for _ in tried]
        for fold in range(num_folds):
            job = replace(
                self,
                splits=self.splits.hold_out(fold),
                checkpoint_dir=self.checkpoint_dir / f"fold-{fold}",
                tracker=_FoldTracker(self.tracker, f"fold {fold + 1} of {num_folds}"),
            )
            for answers, trained in zip(found, job.fit_all(tried), strict=True):
                answers.logits[fold] = job.logits(trained, rows)
        return found

    def logits(self, trained: Trained, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Compute the logits (n, K) of a model for the images of `rows` (n,)."""
        if trained.recipe.architecture == "frozen" and trained.backbone is not None:
            last = backbones.head_of(trained.model)[1]
            with torch.inference_mode():
                found: NDArray[np.float32] = last(torch.from_numpy(self._features(trained.backbone, rows))).numpy()
            return found
        return model_artifact.logits(trained, self.splits.images[rows])

    def _features(self, backbone: Backbone, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return features.compute(backbone, self.splits, rows, self.device, self.feature_cache, self.tracker)

    def _fit_network(self, recipe: Recipe, begun: Trained | None) -> Trained:
        return loop.fit(recipe, self.splits, self.operations, self.device, self.checkpoint_dir, self.tracker, begun)

    def _fit_head(self, recipe: Recipe) -> Trained:
        """Fit a last layer on the features of the recipe's backbone."""
        splits = self.splits
        backbone = backbones.load(recipe.backbone)
        rows = {"train": splits.rows("train"), "val": splits.rows("val")}
        of = {name: self._features(backbone, part) for name, part in rows.items()}
        labels = {name: splits.labels[part] for name, part in rows.items()}
        groups = splits.groups()
        head = linear_head.fit(
            of["train"],
            labels["train"],
            len(splits.class_names),
            groups=None if groups is None else groups[rows["train"]],
            is_balanced=recipe.class_weights == "balanced",
            seed=recipe.seed,
        )
        model = backbone.build(splits.image_shape, len(splits.class_names)).eval()
        last = backbones.head_of(model)[1]
        last.load_state_dict({"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)})
        scores = {name: _score(head.logits(of[name]), labels[name]) for name in rows}
        self.tracker.metrics(
            {f"{name}/{kind}": value for name, score in scores.items() for kind, value in score.items()}, step=1
        )
        figures = {f"{name}_{kind}": value for name, score in scores.items() for kind, value in score.items()}
        environment = devices.environment(self.device) | {"penalty": head.penalty}
        # In the form of an epoch, for the report and MLflow: a regression has neither epochs nor a rate.
        history = [{"epoch": 1, **figures, "learning_rate": 0.0}]
        return Trained(recipe, model, backbone.mean, backbone.std, history, environment, backbone)


def _score(logits: NDArray[np.float32], labels: NDArray[np.int32]) -> dict[str, float]:
    """Compute the mean cross-entropy and the accuracy of logits (n, K)."""
    values, classes = torch.from_numpy(logits).double(), torch.from_numpy(labels.astype(np.int64))
    loss = float(functional.cross_entropy(values, classes)) if len(labels) else math.nan
    return {"loss": loss, "accuracy": float((values.argmax(1) == classes).double().mean())}


class _FoldTracker(NullTracker):
    """Tracker of one fold's training: of all reports only the progress goes on, with the fold's name."""

    def __init__(self, tracker: Tracker, name: str) -> None:
        self._tracker, self._name = tracker, name

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        self._tracker.progress(done, total, unit, self._name)
