"""preprocess: a Dataset → arrays of one size, in sticky splits."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from components.facts import Facts
from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.data.preprocess import preprocess
from gapgate.data.splits import SPLIT_NAMES
from gapgate.settings.sections import PreprocessSettings
from gapgate.tracking import Tracker


def run(settings: PreprocessSettings, inputs: Mapping[str, Artifact], folder: Path, tracker: Tracker) -> Facts:
    """Decode, resize and split the images of `inputs["dataset"]`.

    Raises:
        DataError: an unusable source, too many unreadable images, or a class with too few.
    """
    dataset = inputs["dataset"]
    splits = preprocess(settings, dataset.path / "files", folder, tracker)
    # `register` writes it into the receipt, and does not read the dataset itself.
    shutil.copyfile(dataset.path / "dataset.json", folder / "dataset.json")
    artifacts.write_json(folder / artifacts.LINEAGE, artifacts.lineage(inputs))
    counts = {name: len(splits.rows(name)) for name in SPLIT_NAMES}
    tracker.metrics({f"data/{name}_images": count for name, count in counts.items()})
    height, width, channels = splits.image_shape
    counted = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    if splits.num_folds:
        counted += f" in {splits.num_folds} folds"
    return Facts(
        summary=f"{counted}; {len(splits.class_names)} classes; {width}×{height}×{channels}",
        files={"contact_sheet.png": "data"},
    )
