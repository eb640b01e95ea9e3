"""preprocess: a Dataset → arrays of one size, in sticky splits."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from components.facts import Data, Facts
from components.platform.data import source_files
from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.data.leaks import alike
from gapgate.data.preprocess import preprocess
from gapgate.data.set_aside import PICTURE, TABLE, in_words
from gapgate.data.splits import SPLIT_NAMES, Splits
from gapgate.errors import DataError
from gapgate.settings import parse
from gapgate.settings.sections import PreprocessSettings, Reading
from gapgate.tracking import Tracker


def run(settings: PreprocessSettings, inputs: Mapping[str, Artifact], folder: Path, tracker: Tracker) -> Facts:
    """Decode, resize and split the images of `inputs["dataset"]`.

    Raises:
        DataError: an unusable source, too many unreadable images, or a class with too few.
    """
    dataset = inputs["dataset"]
    # Datasets of before this file was written have none.
    read = artifacts.read_json(dataset.path / "reading.json", {"reading": {}, "left_out": []})
    reading = parse(Reading, read["reading"], "data")
    try:
        preprocess(settings, dataset.path / "files", folder, tracker, reading, read["left_out"])
    except DataError as error:
        source = dataset.read_json("dataset.json")["source"]
        raise DataError(source_files.as_named(str(error), dataset.path / "files", source)) from None
    # `register` writes it into the receipt, and does not read the dataset itself.
    shutil.copyfile(dataset.path / "dataset.json", folder / "dataset.json")
    artifacts.write_json(folder / artifacts.LINEAGE, artifacts.lineage(inputs))
    return describe(folder)


def describe(folder: Path) -> Facts:
    """The facts about a Splits artifact."""
    splits = Splits.open(folder)
    dataset = artifacts.read_json(folder / "dataset.json")
    counts: dict[str, int] = {name: len(splits.rows(name)) for name in SPLIT_NAMES}
    params: dict[str, object] = {f"data.{name}_images": count for name, count in counts.items()}
    height, width, channels = splits.image_shape
    counted = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    if splits.num_folds:
        counted += f" in {splits.num_folds} folds"
    said = [counted, f"{len(splits.class_names)} classes", f"{width}×{height}×{channels}"]
    # Splits of before groups were counted have none.
    if num_groups := splits.info.get("groups", {}).get("num_groups", 0):
        said.append(f"{num_groups:,} group{'s' * (num_groups != 1)} kept together")
    shown = [name for name in (PICTURE, alike.PICTURE) if (folder / name).exists()]
    files = dict.fromkeys(["contact_sheet.png", *shown], "data")
    tables = {name: "data" for name in (TABLE, alike.TABLE) if (folder / name).exists()}
    if set_aside := splits.info["set_aside"]:
        said.append(in_words(set_aside))
        params["data.set_aside_images"] = sum(set_aside.values())
    return Facts(
        summary="; ".join(said),
        notes=splits.info["notes"],
        files=files,
        tables=tables,
        images={"contact_sheet.png": "training images"},
        # As ingest: a run that DVC began has the Splits alone.
        tags={f"data.{name}": str(value) for name, value in dataset.items() if value != ""},
        params=params,
        data=Data(
            source=dataset["source"],
            digest=dataset["dvc_hash"],
            num_images={name: count for name, count in counts.items() if count},
            classes=splits.class_names,
        ),
    )
