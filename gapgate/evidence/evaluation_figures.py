"""Figures of an evaluation, as files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from gapgate.artifacts import read_json
from gapgate.data import set_aside, tiles
from gapgate.data.leaks import alike
from gapgate.data.splits import Splits
from gapgate.evidence.measures import mistakes, suspects
from gapgate.evidence.measures.predictions import Predictions
from gapgate.onnx import feature_maps
from gapgate.onnx.opened_model import OpenedModel
from gapgate.report import figures
from gapgate.settings.sections import EvaluateSettings


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
    is_augmented = bool(evaluation["facts"]["num_operations"])
    figures.learning_curves(folder, evaluation["curves"], evaluation["learning_curve"], is_augmented=is_augmented)
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
    tiles.save_thumbnails((splits.images[one["row"]] for one in evaluation["mistakes"]), folder / "mistakes")
    listed = evaluation["suspects"]["images"]
    doubted = [one for one in listed if one["confidence"] > one["self_confidence"]][: suspects.SHOWN_IMAGES]
    tiles.save_thumbnails((splits.images[one["row"]] for one in doubted), folder / "suspects")
    figures.worst_errors(
        folder,
        splits.images[[one["row"] for one in doubted]] if doubted else splits.images[:0],
        np.array([one["label"] for one in doubted], np.int32),
        np.array([one["suggested"] for one in doubted], np.int32),
        np.array([one["confidence"] for one in doubted], np.float32),
        splits.class_names,
        name="suspects",
    )
    fill = read_json(model.folder / "transform.json", {}).get("fill", 0)
    drawn = mistakes.draw(evaluation["looked_at"], model.classifier, splits, fill)
    figures.looked_at(folder, drawn, splits.class_names)
    rows = ([one.image, one.heat, *one.nearest_images] for one in drawn)
    tiles.save_thumbnails(chain.from_iterable(rows), folder / "looked_at")
    if (filters := feature_maps.first_filters(model.graph)) is not None:
        figures.filters(folder, filters)
    example = splits.images[test.rows[0]]
    figures.feature_maps(folder, example, feature_maps.early_feature_maps(model.graph, example))
    # Copied: a report is made from the evaluation alone, wherever the splits are by then.
    for sheet in ("contact_sheet.png", set_aside.PICTURE, alike.PICTURE):
        for name in (sheet, f"dark/{sheet}"):
            if (splits.path / name).exists():
                shutil.copyfile(splits.path / name, folder / name)
