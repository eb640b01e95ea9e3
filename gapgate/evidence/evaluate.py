"""Measurement of the ONNX file that will be served, on un-augmented train, val and test, through one code path.

`evaluation.json` holds every figure, `predictions.parquet` every answer and `figures/` the plots. Figures that cannot
be computed are null, never NaN.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from safetensors.numpy import load_file

from gapgate.artifacts import MANIFEST, read_json, write_json
from gapgate.cpu_quota import available_cpus
from gapgate.data import set_aside
from gapgate.data.splits import SPLIT_NAMES, SplitName, Splits
from gapgate.errors import DataError
from gapgate.evidence import calibration, gap, metrics, mistakes
from gapgate.evidence.learning_curve import parting
from gapgate.evidence.predictions import Predictions, predict_all, write_predictions
from gapgate.onnx import feature_maps
from gapgate.onnx.classifier import Classifier, shape_text
from gapgate.onnx.inner_layers_export import open_embedding
from gapgate.report import figures
from gapgate.settings.sections import EvaluateSettings
from gapgate.tracking import NullTracker, Tracker


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """Files of a Model artifact, with `model.onnx` opened once as a classifier and once as a graph."""

    folder: Path
    classifier: Classifier
    graph: onnx.ModelProto

    @classmethod
    def load(cls, folder: Path) -> OpenedModel:
        """Open the model in `folder`.

        Raises:
            ArtifactError: as `Classifier.load`.
        """
        path = folder / "model.onnx"
        return cls(folder, Classifier.load(path, available_cpus()), onnx.load(path))


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
    rows = {name: splits.rows(name) for name in SPLIT_NAMES}
    num_train = len(rows["train"])
    rows["train"] = sample(rows["train"], settings.max_train_images, settings.seed)
    found = dict(zip(SPLIT_NAMES, predict_all(classifier, splits, rows, settings.batch_size, tracker), strict=True))
    history = read_json(model.folder / "history.json", [])
    curve = metrics.learning_curve(history)
    parts = parting(history, curve)
    layers = open_embedding(model.graph, available_cpus())
    evaluation = measure(settings, found, splits.class_names) | {
        "train_sample": {
            "num_images": len(rows["train"]),
            "of_images": num_train,
            "is_sample": len(rows["train"]) < num_train,
            "seed": settings.seed,
        },
        "parity": parity(classifier, model.folder / "parity.safetensors", settings.batch_size),
        "learning_curve": curve,
        "parting": parts and asdict(parts),
        "looked_at": mistakes.find(layers, splits, found["train"], found["test"]),
        "inputs": {"splits": _provenance(splits.path), "model": _provenance(model.folder)},
        "facts": _facts(splits, model.folder),
        "data": {"notes": splits.info.get("notes", []), "set_aside": set_aside.read(splits.path)},
        "settings": settings.model_dump(mode="json"),
    }
    return evaluation, found


def sample(rows: NDArray[np.int64], max_images: int, seed: int) -> NDArray[np.int64]:
    """Return all rows (n,), or a seeded sample of `max_images` of them in ascending order."""
    if len(rows) <= max_images:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, max_images, replace=False))


def measure(
    settings: EvaluateSettings, found: Mapping[SplitName, Predictions], class_names: list[str]
) -> dict[str, Any]:
    """Compute every figure that follows from the predictions alone."""
    # One generator serves all intervals, so the order of the calls below is part of the result: equal predictions and
    # settings give equal bytes of `evaluation.json` only while it stays.
    rng = np.random.default_rng(settings.seed)
    level = settings.confidence_level
    accuracy = {
        name: gap.measure(p.correct, rng, groups=p.groups, num_resamples=settings.num_resamples)
        for name, p in found.items()
    }
    test = found["test"]
    classes = metrics.per_class(test.labels, test.predicted, class_names)
    gaps = [_class_gap(settings, found["train"], test, label, rng) for label in range(len(class_names))]
    for entry, class_gap in zip(classes, gaps, strict=True):
        entry |= {"gap_points": class_gap["points"], "gap_low": class_gap["low"], "gap_high": class_gap["high"]}
    ece, bins = calibration.reliability(test.confidence, test.correct, settings.calibration_bins)
    return {
        "accuracy": {
            name: _fields(a.interval(level)) | {"num_images": a.num_images, "num_groups": _num_groups(found[name])}
            for name, a in accuracy.items()
        },
        "loss": {name: metrics.finite(float(p.losses.mean())) for name, p in found.items()},
        "gap": _fields(gap.gap(accuracy["train"], accuracy["test"], level), "points")
        | {
            "confidence_level": level,
            "vs_val": _fields(gap.gap(accuracy["train"], accuracy["val"], level), "points"),
            "per_class": [{"name": name, **class_gap} for name, class_gap in zip(class_names, gaps, strict=True)],
        },
        "classes": classes,
        "confusion": metrics.confusion(test.labels, test.predicted, len(class_names)).tolist(),
        "calibration": {"ece": ece, "bins": bins, "split": "test"},
    }


def parity(model: Classifier, path: Path, batch_size: int) -> dict[str, Any]:
    """Compute the largest difference between this model's logits and those that PyTorch gave for the same images.

    It is None where there is nothing to compare, which the gate judges as a failure.
    """
    if not path.exists():
        return {"max_abs_difference": None, "num_images": 0}
    stored = load_file(path)
    images, expected = stored["images"], stored["logits"]
    if len(images) == 0 or expected.shape != (len(images), model.num_classes):
        return {"max_abs_difference": None, "num_images": len(images)}
    difference = float(np.abs(model.logits(images, batch_size) - expected).max())
    return {"max_abs_difference": metrics.finite(difference), "num_images": len(images)}


def draw(
    settings: EvaluateSettings,
    evaluation: Mapping[str, Any],
    test: Predictions,
    splits: Splits,
    model: OpenedModel,
    folder: Path,
) -> None:
    """Write the figures into the new folder `folder`; a figure that this model has no data for is left out."""
    folder.mkdir()
    figures.learning_curves(folder, read_json(model.folder / "history.json", []), evaluation["learning_curve"])
    figures.confusion(folder, np.array(evaluation["confusion"]), splits.class_names)
    figures.reliability(folder, evaluation["calibration"]["bins"], evaluation["calibration"]["ece"])
    worst = mistakes.confident_mistakes(test, settings.worst_errors)
    figures.worst_errors(
        folder,
        splits.images[test.rows[worst]],
        test.labels[worst],
        test.predicted[worst],
        test.confidence[worst],
        splits.class_names,
    )
    fill = read_json(model.folder / "transform.json", {}).get("fill", 0)
    drawn = mistakes.draw(evaluation["looked_at"], model.classifier, splits, fill)
    figures.looked_at(folder, drawn, splits.class_names)
    if (filters := feature_maps.first_filters(model.graph)) is not None:
        figures.filters(folder, filters)
    example = splits.images[test.rows[0]]
    figures.feature_maps(folder, example, feature_maps.early_feature_maps(model.graph, example))
    for name in ("contact_sheet.png", set_aside.PICTURE):
        if (splits.path / name).exists():
            shutil.copyfile(splits.path / name, folder / name)


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


def _num_groups(found: Predictions) -> int | None:
    return None if found.groups is None else len(np.unique(found.groups))


def _class_gap(
    settings: EvaluateSettings, train: Predictions, test: Predictions, label: int, rng: np.random.Generator
) -> dict[str, float | None]:
    """Compute the gap of one class; all None if train or test has no image of it."""
    sides = []
    for side in (train, test):
        of_class = side.labels == label
        if not of_class.any():
            return {"points": None, "low": None, "high": None}
        groups = None if side.groups is None else side.groups[of_class]
        sides.append(gap.measure(side.correct[of_class], rng, groups=groups, num_resamples=settings.num_resamples))
    return {**_fields(gap.gap(sides[0], sides[1], settings.confidence_level), "points")}


def _fields(interval: gap.Interval, name: str = "value") -> dict[str, Any]:
    return {name: interval.value, "low": interval.low, "high": interval.high}


def _provenance(artifact: Path) -> dict[str, Any] | None:
    """Return digest, settings and inputs from an artifact's manifest; None for a folder without a manifest."""
    manifest = read_json(artifact / MANIFEST, None)
    return None if manifest is None else {key: manifest[key] for key in ("digest", "settings", "inputs")}


def _facts(splits: Splits, model_dir: Path) -> dict[str, Any]:
    """Facts about the data and the model for the report."""
    architecture = read_json(model_dir / "architecture.json", {})
    return {
        "image_shape": list(splits.image_shape),
        "class_names": splits.class_names,
        "num_images": {name: len(splits.rows(name)) for name in SPLIT_NAMES},
        "num_parameters": architecture.get("num_parameters"),
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
