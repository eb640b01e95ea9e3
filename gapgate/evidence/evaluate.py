"""Measurement of the ONNX file that will be served, on un-augmented train, val and test, through one code path.

`evaluation.json` holds every figure, `predictions.parquet` every answer and `figures/` the plots. Figures that cannot
be computed are null, never NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file

from gapgate.artifacts import MANIFEST, read_json, write_json
from gapgate.data import set_aside
from gapgate.data.leaks import alike
from gapgate.data.splits import SPLIT_NAMES, SplitName, Splits
from gapgate.errors import DataError
from gapgate.evidence.evaluation_figures import draw
from gapgate.evidence.measures import metrics, mistakes, suspects
from gapgate.evidence.measures.folds import FoldAnswers
from gapgate.evidence.measures.learning_curve import parting
from gapgate.evidence.measures.predictions import Predictions, predict_all, write_predictions
from gapgate.evidence.measures.summary import measure
from gapgate.evidence.tables import write_tables
from gapgate.onnx.classifier import Classifier, logit_scale, shape_text
from gapgate.onnx.inner_layers_export import open_embedding
from gapgate.onnx.opened_model import OpenedModel
from gapgate.process.cpu_quota import available_cpus
from gapgate.settings.sections import EvaluateSettings
from gapgate.tracking import NullTracker, Tracker

_CURVES = ("epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy")
"""Columns of the training's history that are kept in the evaluation."""


def evaluate(
    settings: EvaluateSettings,
    splits: Splits,
    model_dir: Path,
    out_dir: Path,
    tracker: Tracker = NullTracker(),  # noqa: B008  (it holds no state)
) -> dict[str, Any]:
    """Write an evaluation of `model_dir/model.onnx` into the existing folder `out_dir`; returns `evaluation.json`.

    Raises:
        ArtifactError: a file of the model is missing or is not what it should be.
        DataError: the model and the splits do not fit each other, or a split is empty.
    """
    model = OpenedModel.load(model_dir)
    evaluation, found = assess(settings, splits, model, tracker)
    write_json(out_dir / "evaluation.json", evaluation)
    write_predictions(out_dir / "predictions.parquet", found, splits)
    suspects.write_csv(out_dir / "suspects.csv", evaluation["suspects"]["images"], splits.class_names)
    write_tables(out_dir, evaluation, found["test"], splits)
    draw(settings, evaluation, found["test"], splits, model, out_dir / "figures")
    _tell(tracker, evaluation)
    return evaluation


def assess(
    settings: EvaluateSettings,
    splits: Splits,
    model: OpenedModel,
    tracker: Tracker = NullTracker(),  # noqa: B008  (it holds no state)
) -> tuple[dict[str, Any], dict[SplitName, Predictions]]:
    """Compute the content of `evaluation.json` and the predictions behind it.

    Nothing is written. The same errors are raised as by `evaluate`.
    """
    classifier = model.classifier
    _check_fit(classifier, splits)
    num_train = len(splits.rows("train"))
    found = _answers(settings, splits, model, tracker)
    history = read_json(model.folder / "history.json", [])
    curve = metrics.learning_curve(history)
    parts = parting(history, curve)
    layers = open_embedding(model.graph, available_cpus())
    # In folds an image is answered by each model that was trained on it.
    num_measured = len(np.unique(found["train"].rows))
    evaluation = measure(settings, found, splits.class_names, num_folds=splits.num_folds) | {
        "method": _method(splits),
        "train_sample": {
            "num_images": num_measured,
            "of_images": num_train,
            "is_sample": num_measured < num_train,
            "seed": settings.seed,
        },
        "parity": parity(classifier, model.folder / "parity.safetensors", settings.batch_size),
        "learning_curve": curve,
        "parting": parts and asdict(parts),
        "curves": [_finite_line(line) for line in history],
        "mistakes": mistakes.shown(found["test"], splits),
        "looked_at": mistakes.find(layers, splits, found["train"], found["test"]),
        # Of folds, test is every image; val was answered by a model that stopped by it.
        "suspects": suspects.find([found["test"]] if splits.num_folds else [found["val"], found["test"]], splits),
        "leaks": splits.info.get("leaks"),
        "inputs": {"splits": _provenance(splits.path), "model": _provenance(model.folder)},
        "facts": _facts(splits, model.folder),
        "data": {
            "notes": splits.info.get("notes", []),
            "set_aside": set_aside.read(splits.path),
            "alike": alike.read(splits.path),
        },
        "settings": settings.model_dump(mode="json"),
    }
    return evaluation, found


def _finite_line(line: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the columns of `_CURVES` of an epoch; a loss that overflowed is no figure to judge the model by."""
    values = {name: line.get(name) for name in _CURVES}
    return {name: metrics.finite(value) if isinstance(value, float) else value for name, value in values.items()}


def _answers(
    settings: EvaluateSettings, splits: Splits, model: OpenedModel, tracker: Tracker
) -> dict[SplitName, Predictions]:
    """Answer the images of all splits; of a cross-validation, train and test are the answers of the folds' models."""
    if not splits.num_folds:
        rows = {name: splits.rows(name) for name in SPLIT_NAMES}
        rows["train"] = sample(rows["train"], settings.max_train_images, settings.seed)
        return dict(
            zip(SPLIT_NAMES, predict_all(model.classifier, splits, rows, settings.batch_size, tracker), strict=True)
        )
    of_folds = FoldAnswers.read(model.folder, splits)
    only_val: dict[SplitName, NDArray[np.int64]] = {"val": splits.rows("val")}
    (val,) = predict_all(model.classifier, splits, only_val, settings.batch_size, tracker)
    return {"train": of_folds.trained_on(splits), "val": val, "test": of_folds.held_out(splits)}


def _method(splits: Splits) -> dict[str, Any]:
    """Name the evidence, in words for the certificate and the report."""
    num_folds, num_val = splits.num_folds, len(splits.rows("val"))
    if not num_folds:
        words = f"{len(splits.rows('test')):,} test images that the model has not seen"
        return {"name": "holdout", "num_folds": 0, "words": words}
    words = (
        f"cross-validation: of {num_folds} models of the same training, each answers the part of "
        f"{len(splits.in_folds()):,} images that it has not seen; this model is trained on all but {num_val:,} of val"
    )
    return {"name": "cross_validation", "num_folds": num_folds, "words": words}


def sample(rows: NDArray[np.int64], max_images: int, seed: int) -> NDArray[np.int64]:
    """Return all rows (n,), or a seeded sample of `max_images` of them in ascending order."""
    if len(rows) <= max_images:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, max_images, replace=False))


def parity(model: Classifier, path: Path, batch_size: int) -> dict[str, Any]:
    """Compute the largest difference between this model's logits and those that PyTorch gave for the same images, and
    their scale.

    The difference is None where there is nothing to compare, which the gate judges as a failure.
    """
    if not path.exists():
        return {"max_abs_difference": None, "logit_scale": 1.0, "num_images": 0}
    stored = load_file(path)
    images, expected = stored["images"], stored["logits"]
    if len(images) == 0 or expected.shape != (len(images), model.num_classes):
        return {"max_abs_difference": None, "logit_scale": 1.0, "num_images": len(images)}
    # NaN in one logit makes the maximum NaN, and that becomes None: a failure too.
    difference = float(np.abs(model.logits(images, batch_size) - expected).max())
    return {
        "max_abs_difference": metrics.finite(difference),
        "logit_scale": metrics.finite(logit_scale(expected)),
        "num_images": len(images),
    }


def _check_fit(model: Classifier, splits: Splits) -> None:
    if model.image_shape != splits.image_shape:
        raise DataError(
            f"the model takes images of {shape_text(model.image_shape)}, the splits hold "
            f"{shape_text(splits.image_shape)}; train a model on these splits"
        )
    if model.num_classes != len(splits.class_names):
        raise DataError(
            f"the model knows {model.num_classes} classes, the splits hold {len(splits.class_names)}; "
            "train a model on these splits"
        )


def _provenance(artifact: Path) -> dict[str, Any] | None:
    """Return digest, settings and inputs from an artifact's manifest; None for a folder without a manifest."""
    manifest = read_json(artifact / MANIFEST, None)
    return None if manifest is None else {key: manifest[key] for key in ("digest", "settings", "inputs")}


def _facts(splits: Splits, model_dir: Path) -> dict[str, Any]:
    """Facts about the data and the model for the report and the advice."""
    architecture, recipe = (read_json(model_dir / f"{name}.json", {}) for name in ("architecture", "recipe"))
    index = pq.read_table(splits.path / "index.parquet", columns=["width", "height"])
    sides = np.minimum(index["width"].to_numpy(), index["height"].to_numpy())
    return {
        "image_shape": list(splits.image_shape),
        "source_px": int(np.median(sides[sides > 0])),  # an image that could not be read has the size 0
        "network": splits.network,
        "class_names": splits.class_names,
        "num_images": {name: len(splits.rows(name)) for name in SPLIT_NAMES},
        "num_parameters": architecture.get("num_parameters"),
        "architecture": recipe.get("name"),
        "backbone": (architecture.get("backbone") or {}).get("name"),
        "has_dropout": any(layer.get("type") == "dropout" for layer in architecture.get("layers", [])),
        "num_operations": recipe.get("num_operations"),
        "tried": recipe.get("why"),
        "dataset": read_json(splits.path / "dataset.json", {}),
        "environment": read_json(model_dir / "environment.json", {}),
    }


def _tell(tracker: Tracker, evaluation: Mapping[str, Any]) -> None:
    """Send the final figures to the tracker.

    Training's epochs use the names `train/` and `val/`, so the final figures of those splits are under `eval_`.
    """
    values = {
        "gap/points": evaluation["gap"]["points"],
        "gap/low": evaluation["gap"]["low"],
        "gap/high": evaluation["gap"]["high"],
        "gap/vs_val_points": evaluation["gap"]["vs_val"]["points"],
        "test/ece": evaluation["calibration"]["ece"],
        "parity/max_abs_difference": evaluation["parity"]["max_abs_difference"],
    }
    for name, group in (("train", "eval_train"), ("val", "eval_val"), ("test", "test")):
        values[f"{group}/accuracy"] = evaluation["accuracy"][name]["value"]
        values[f"{group}/loss"] = evaluation["loss"][name]
    tracker.metrics({name: value for name, value in values.items() if value is not None})
