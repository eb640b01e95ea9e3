"""preprocess: a Dataset → arrays of one size, in sticky splits."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.data.preprocess import preprocess
from gapgate.data.splits import SPLIT_NAMES, Splits
from gapgate.settings.sections import PreprocessSettings
from gapgate.tracking import Tracker


def run(settings: PreprocessSettings, inputs: Mapping[str, Artifact], out_dir: Path, tracker: Tracker) -> Artifact:
    """Decode, resize and split the images of `inputs["dataset"]`.

    Raises:
        DataError: an unusable source, too many unreadable images, or a class with too few.
    """
    dataset = inputs["dataset"]
    with artifacts.create(
        out_dir, kind="splits", step="preprocess", settings=settings.model_dump(mode="json"), inputs=inputs
    ) as folder:
        splits = preprocess(settings, dataset.path / "files", folder, tracker)
        shutil.copyfile(dataset.path / "dataset.json", folder / "dataset.json")
        artifacts.write_json(folder / artifacts.LINEAGE, artifacts.lineage(inputs))
        counts = {name: len(splits.rows(name)) for name in SPLIT_NAMES}
    result = artifacts.load(out_dir, "splits")
    tracker.metrics({f"data/{name}_images": count for name, count in counts.items()})
    tracker.tags({"splits.digest": result.digest})
    tracker.file(out_dir / "contact_sheet.png", "data")
    return result


def describe(splits: Artifact) -> str:
    """A line for the terminal."""
    opened = Splits.open(splits.path)
    counts = ", ".join(f"{len(opened.rows(name)):,} {name}" for name in SPLIT_NAMES)
    height, width, channels = opened.image_shape
    return f"{counts}; {len(opened.class_names)} classes; {width}×{height}×{channels}"
