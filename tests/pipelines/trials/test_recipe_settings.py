"""Each recipe is a whole settings file and runs: 256 made images of its own size, one epoch, evaluation and gate."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gapgate.data.sources.builtin import shapes
from gapgate.settings import load
from gapgate.settings.overrides import read_yaml
from pipelines.trials.trial import run_trial

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.yaml"))
NUM_IMAGES, NUM_TEST = 256, 64
"""Validation is taken from the rest."""

each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)


def made_images(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    """(256, *shape) uint8 and their classes, 0 to 9 in turn: a pattern for each class, and noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(NUM_IMAGES, dtype=np.uint8) % 10
    patterns = rng.integers(0, 192, (10, *shape))
    return (patterns[labels] + rng.integers(0, 64, (len(labels), *shape))).astype(np.uint8), labels


def write_idx(folder: Path) -> None:
    images, labels = made_images(28, 28)
    for prefix, rows in (("train", slice(-NUM_TEST)), ("t10k", slice(-NUM_TEST, None))):
        for name, values in (("images-idx3", images[rows]), ("labels-idx1", labels[rows])):
            header = struct.pack(f">2xBB{values.ndim}I", 8, values.ndim, *values.shape)
            (folder / f"{prefix}-{name}-ubyte").write_bytes(header + values.tobytes())


def write_cifar(folder: Path) -> None:
    images, labels = made_images(3, 32, 32)
    records = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1)
    (folder / "data_batch_1.bin").write_bytes(records[:-NUM_TEST].tobytes())
    (folder / "test_batch.bin").write_bytes(records[-NUM_TEST:].tobytes())


def write_shapes(folder: Path) -> None:
    images, labels = shapes(images_per_class=86, size_px=128, seed=0)
    np.savez(folder / "shapes.npz", images=images[:NUM_IMAGES], labels=labels[:NUM_IMAGES])


WRITERS: dict[str, Callable[[Path], None]] = {
    "mnist": write_idx,
    "fashion-mnist": write_idx,
    "cifar-10": write_cifar,
    "shapes": write_shapes,
}
"""Name of the recipe's source → a small data set in its format."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, empty_store):
    """One for all recipes: what two of them share (the data, the store of the runs) is made once."""
    folder = tmp_path_factory.mktemp("recipes")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAPGATE_HOME", str(folder / "home"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.chdir(folder)
        yield folder


@pytest.fixture
def source(workspace):
    """Where the data of a recipe are, by the name that it gives them."""

    def write(name: str) -> Path:
        folder = workspace / WRITERS[name].__name__
        if not folder.exists():
            folder.mkdir()
            WRITERS[name](folder)
        return folder

    return write


@each_recipe
def test_a_recipe_says_every_setting_and_is_read_as_it_is_written(recipe):
    written, read = read_yaml(recipe.read_bytes(), recipe.name), load(recipe).model_dump(mode="json")
    assert {section: set(values) for section, values in written.items()} == {
        section: set(values) for section, values in read.items()
    }
    for section, values in read.items():
        for name, value in values.items():
            if isinstance(value, list):  # of layers or operations, which leave out what is usual
                for given, element in zip(written[section][name], value, strict=True):
                    assert given.items() <= element.items()
            else:
                assert written[section][name] == value


@each_recipe
def test_a_recipe_runs_to_its_verdict(recipe, source):
    name = load(recipe).data.source
    few = ["train.epochs=1", "preprocess.stratify=true", "evaluate.num_resamples=1000", "evaluate.worst_errors=4"]
    trial = run_trial(load(recipe, [f"data.source={source(name)}", *few]))
    assert len(trial.history) == 1
    measured = [trial.evaluation["accuracy"][split]["num_images"] for split in ("train", "val", "test")]
    assert sum(measured) == NUM_IMAGES
    assert min(measured) > 0
    assert trial.verdict in {"pass", "fail", "undecided"}
