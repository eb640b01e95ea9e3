import csv
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from sklearn.metrics import accuracy_score, recall_score

from gapgate import artifacts
from gapgate.data.splits import Splits
from gapgate.errors import ArtifactError, DataError
from gapgate.evidence.evaluate import _facts, assess, evaluate, parity, sample
from gapgate.evidence.evaluation_figures import draw
from gapgate.network import modules
from gapgate.network.export import export_onnx
from gapgate.network.layers import Activation, Conv, Dense, Flatten, GlobalAveragePool
from gapgate.onnx.classifier import Classifier
from gapgate.onnx.feature_maps import early_feature_maps, first_filters
from gapgate.onnx.opened_model import OpenedModel
from gapgate.report import figures
from gapgate.settings.sections import EvaluateSettings
from gapgate.tracking import NullTracker
from tests.gapgate.onnx_models import digits, fit_cnn, fit_linear, write_linear, write_model_files, write_splits

NAMES = [f"digit {i}" for i in range(10)]
FAST = EvaluateSettings(num_resamples=1000, worst_errors=5)
FIGURES = {"learning_curves", "confusion", "reliability", "worst_errors", "suspects"}
FIGURES |= {"looked_at", "filters", "feature_maps"}


class Notes(NullTracker):
    """Keeps what a step says."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.steps: list[tuple[int, int, str]] = []

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        self.values |= values

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        self.steps.append((done, total, unit))


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    images, labels = digits()
    return write_splits(tmp_path_factory.mktemp("data") / "splits", images, labels, NAMES, (1200, 147))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images, labels = digits()
    folder = tmp_path_factory.mktemp("model")
    write_model_files(folder, fit_cnn(folder / "model.onnx", images[:1200], labels[:1200]), images[1200:1347])
    return folder


@pytest.fixture(scope="module")
def notes() -> Notes:
    return Notes()


@pytest.fixture(scope="module")
def out_dir(splits: Splits, model_dir: Path, notes: Notes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    evaluate(FAST, splits, model_dir, folder, notes)
    return folder


@pytest.fixture(scope="module")
def evaluation(out_dir: Path) -> Any:
    return json.loads((out_dir / "evaluation.json").read_text())


def evaluated(settings: EvaluateSettings, splits: Splits, model_dir: Path, folder: Path) -> Any:
    folder.mkdir()
    evaluate(settings, splits, model_dir, folder)
    return json.loads((folder / "evaluation.json").read_text())


def test_accuracies_and_recalls_are_scikit_learns(evaluation: Any, model_dir: Path) -> None:
    images, labels = digits()
    predicted = Classifier.load(model_dir / "model.onnx").logits(images).argmax(axis=1)
    sides = {"train": slice(0, 1200), "val": slice(1200, 1347), "test": slice(1347, None)}
    for name, rows in sides.items():
        assert evaluation["accuracy"][name]["value"] == accuracy_score(labels[rows], predicted[rows])
        assert evaluation["accuracy"][name]["num_images"] == len(labels[rows])
    expected = recall_score(labels[1347:], predicted[1347:], average=None)
    assert [entry["recall"] for entry in evaluation["classes"]] == pytest.approx(expected.tolist())
    train, test = (evaluation["accuracy"][name]["value"] for name in ("train", "test"))
    assert evaluation["gap"]["points"] == pytest.approx((train - test) * 100)
    assert evaluation["gap"]["low"] < evaluation["gap"]["points"] < evaluation["gap"]["high"]


def test_the_confusion_adds_up_to_the_test_images_with_the_right_ones_on_its_diagonal(evaluation: Any) -> None:
    counts = np.array(evaluation["confusion"])
    assert counts.sum() == 450
    assert counts.trace() / 450 == evaluation["accuracy"]["test"]["value"]
    assert counts.sum(axis=1).tolist() == [entry["support"] for entry in evaluation["classes"]]


def test_the_tables_have_every_class_and_the_mistakes_by_their_confidence(evaluation: Any, out_dir: Path) -> None:
    def rows(name: str) -> list[dict[str, Any]]:
        found = artifacts.read_json(out_dir / "tables" / f"{name}.json")
        return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]

    assert [row["class"] for row in rows("classes")] == NAMES
    assert [row["gap, low"] for row in rows("classes")] == [entry["gap_low"] for entry in evaluation["classes"]]
    answers = pq.read_table(out_dir / "predictions.parquet").to_pylist()
    wrong = {each["id"]: each for each in answers if each["split"] == "test" and not each["correct"]}
    errors = rows("worst_errors")
    assert {row["image"] for row in errors} == set(wrong)
    assert all(row["said"] == NAMES[wrong[row["image"]]["predicted"]] != row["label"] for row in errors)
    assert [row["confidence"] for row in errors] == sorted((row["confidence"] for row in errors), reverse=True)
    assert [row["image"] for row in rows("suspects")] == [one["id"] for one in evaluation["suspects"]["images"]]
    with (out_dir / "answers.csv").open() as file:
        pairs = [(row["label"], row["answer"]) for row in csv.DictReader(file)]
    counts = np.array(evaluation["confusion"])
    assert [[pairs.count((one, other)) for other in NAMES] for one in NAMES] == counts.tolist()


def test_no_number_in_the_file_is_nan(out_dir: Path) -> None:
    text = (out_dir / "evaluation.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text


def test_every_image_has_a_line_of_predictions(out_dir: Path, evaluation: Any) -> None:
    table = pq.read_table(out_dir / "predictions.parquet")
    rows = table.to_pylist()
    assert [row["row"] for row in rows] == list(range(1797))
    assert {row["split"] for row in rows[1347:]} == {"test"}
    assert rows[1500]["id"] == "image 1500"
    assert json.loads(table.schema.metadata[b"class_names"]) == NAMES
    for row in rows[::97]:
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == int(np.argmax(row["probabilities"]))
        assert row["confidence"] == max(row["probabilities"])
        assert row["correct"] == (row["predicted"] == row["label"])
    right = [row["correct"] for row in rows if row["split"] == "test"]
    assert sum(right) / len(right) == evaluation["accuracy"]["test"]["value"]


def test_the_gap_against_val_is_that_of_vals_accuracy(evaluation: Any) -> None:
    train, val, test = (evaluation["accuracy"][name]["value"] for name in ("train", "val", "test"))
    assert val != test
    assert evaluation["gap"]["vs_val"]["points"] == pytest.approx((train - val) * 100)
    assert evaluation["gap"]["vs_val"]["low"] < (train - val) * 100 < evaluation["gap"]["vs_val"]["high"]


def test_identical_splits_have_zero_gap(model_dir: Path, tmp_path: Path) -> None:
    images, labels = (np.concatenate([array[:200]] * 3) for array in digits())
    splits = write_splits(tmp_path / "splits", images, labels, NAMES, (200, 200))
    found = assess(FAST, splits, OpenedModel.load(model_dir))[0]["gap"]
    assert found["points"] == found["vs_val"]["points"] == 0
    assert all(entry["points"] == 0 for entry in found["per_class"])


def test_a_large_train_split_is_measured_on_a_stated_sample_with_a_wider_interval(
    splits: Splits, model_dir: Path, tmp_path: Path, evaluation: Any
) -> None:
    settings = EvaluateSettings(num_resamples=1000, worst_errors=0, max_train_images=100, seed=4)
    found = evaluated(settings, splits, model_dir, tmp_path / "out")
    assert found["train_sample"] == {"num_images": 100, "of_images": 1200, "is_sample": True, "seed": 4}
    assert evaluation["train_sample"] == {"num_images": 1200, "of_images": 1200, "is_sample": False, "seed": FAST.seed}
    assert found["accuracy"]["train"]["num_images"] == 100
    widths = [e["accuracy"]["train"]["high"] - e["accuracy"]["train"]["low"] for e in (evaluation, found)]
    assert widths[1] > 2 * widths[0]
    assert not (tmp_path / "out/figures/worst_errors.png").exists()


def test_a_sample_is_seeded_ascending_and_without_repeats() -> None:
    rows = np.arange(0, 5000, 3)
    drawn = sample(rows, 200, seed=1)
    np.testing.assert_array_equal(drawn, sample(rows, 200, seed=1))
    assert not np.array_equal(drawn, sample(rows, 200, seed=2))
    assert len(set(drawn.tolist())) == 200
    assert (np.diff(drawn) > 0).all()
    assert set(drawn.tolist()) <= set(rows.tolist())
    assert sample(rows, len(rows), seed=1) is rows


def test_groups_widen_the_interval(model_dir: Path, tmp_path: Path, evaluation: Any) -> None:
    images, labels = digits()
    groups = [None] * 1347 + [f"writer {int(label)}" for label in labels[1347:]]
    splits = write_splits(tmp_path / "splits", images, labels, NAMES, (1200, 147), groups)
    found = assess(FAST, splits, OpenedModel.load(model_dir))[0]["accuracy"]["test"]
    single = evaluation["accuracy"]["test"]
    assert (found["num_groups"], single["num_groups"]) == (10, None)
    assert found["value"] == single["value"]
    assert found["high"] - found["low"] > 1.3 * (single["high"] - single["low"])


def test_parity_is_the_largest_difference_of_a_logit(splits: Splits, tmp_path: Path, out_dir: Path) -> None:
    images, labels = digits()
    model = fit_linear(tmp_path / "model.onnx", images[:300], labels[:300])
    logits = model.logits(images[:20])
    logits[7, 3] += 0.25
    save_file({"images": images[:20], "logits": logits}, tmp_path / "parity.safetensors")
    found = assess(FAST, splits, OpenedModel.load(tmp_path))[0]["parity"]
    assert found["num_images"] == 20
    assert found["max_abs_difference"] == pytest.approx(0.25, abs=1e-5)
    assert found["logit_scale"] == max(1, abs(logits).max())


@pytest.mark.parametrize(
    ("num_images", "num_classes", "difference"), [(0, 10, None), (20, 7, None), (1, 10, 0.5), (20, 10, 0.5)]
)
def test_parity_without_images_or_of_another_number_of_classes_is_null(
    tmp_path: Path, num_images: int, num_classes: int, difference: float | None
) -> None:
    write_linear(tmp_path / "model.onnx", np.zeros((64, 10)), np.full(10, 2.0), (8, 8, 1))
    logits = np.full((num_images, num_classes), 2.5, np.float32)
    save_file({"images": digits()[0][:num_images], "logits": logits}, tmp_path / "parity.safetensors")
    found = parity(Classifier.load(tmp_path / "model.onnx"), tmp_path / "parity.safetensors", 8)
    scale = 1.0 if difference is None else 2.5
    assert found == {"max_abs_difference": difference, "logit_scale": scale, "num_images": num_images}


def test_an_opened_model_is_frozen(model_dir: Path) -> None:
    model = OpenedModel.load(model_dir)
    assert model.folder == model_dir
    with pytest.raises(AttributeError):
        model.folder = Path()  # type: ignore[misc]


def test_a_model_folder_with_the_onnx_file_alone_is_evaluated_with_nulls(splits: Splits, tmp_path: Path) -> None:
    images, labels = digits()
    fit_linear(tmp_path / "model.onnx", images[:300], labels[:300])
    found = evaluated(FAST, splits, tmp_path, tmp_path / "out")
    assert found["parity"] == {"max_abs_difference": None, "logit_scale": 1.0, "num_images": 0}
    assert found["learning_curve"]["gap_opens_epoch"] is None
    drawn = {path.stem for path in (tmp_path / "out/figures").glob("*.png")}
    assert drawn == {"confusion", "reliability", "worst_errors", "suspects", "looked_at"}


def test_a_class_without_images_has_null_figures(model_dir: Path, tmp_path: Path) -> None:
    images, labels = digits()
    kept = np.flatnonzero(labels != 9)[:400]
    splits = write_splits(tmp_path / "splits", images[kept], labels[kept], NAMES, (200, 100))
    found = assess(FAST, splits, OpenedModel.load(model_dir))[0]
    assert found["classes"][9]["recall"] is None
    assert found["gap"]["per_class"][9] == {"name": "digit 9", "points": None, "low": None, "high": None}


def test_the_same_inputs_give_the_same_bytes(splits: Splits, model_dir: Path, tmp_path: Path, out_dir: Path) -> None:
    evaluated(FAST, splits, model_dir, tmp_path / "again")
    files = sorted(path.relative_to(out_dir) for path in out_dir.rglob("*") if path.is_file())
    drawn = [name for name in files if name.name[0].isalpha()]
    assert len(drawn) == 3 + 5 + 2 * len(FIGURES)
    assert {name.parent.name for name in set(files) - set(drawn)} == {"mistakes", "looked_at", "suspects"}
    for name in files:
        assert (out_dir / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_an_artifact_of_it_names_the_digests_it_was_made_from(tmp_path: Path, model_dir: Path) -> None:
    images, labels = digits()
    write_splits(tmp_path / "files", images[:400], labels[:400], NAMES, (200, 100))
    made = {"kind": "splits", "step": "preprocess", "settings": {"salt": "x"}, "inputs": {}}
    with artifacts.create(tmp_path / "splits", **made) as folder:
        shutil.copytree(tmp_path / "files", folder, dirs_exist_ok=True)
    opened = artifacts.load(tmp_path / "splits", "splits")
    found = evaluated(FAST, Splits.open(tmp_path / "splits"), model_dir, tmp_path / "out")
    assert found["inputs"] == {
        "splits": {"digest": opened.digest, "settings": {"salt": "x"}, "inputs": {}},
        "model": None,
    }


def test_the_tracker_hears_figures_and_progress(evaluation: Any, notes: Notes) -> None:
    assert notes.values["gap/points"] == evaluation["gap"]["points"]
    assert notes.values["test/accuracy"] == evaluation["accuracy"]["test"]["value"]
    assert notes.values["eval_train/accuracy"] == evaluation["accuracy"]["train"]["value"]
    assert notes.values["test/ece"] == evaluation["calibration"]["ece"]
    assert not any(name.startswith(("train/", "val/")) for name in notes.values)
    assert notes.steps[-1] == (1797, 1797, "images")


def test_figures_are_readable_images_on_white_and_on_dark(out_dir: Path) -> None:
    for name in FIGURES:
        for folder, is_light in ((out_dir / "figures", True), (out_dir / "figures/dark", False)):
            with Image.open(folder / f"{name}.png") as image:
                assert min(image.size) >= 40
                corner = image.convert("L").getpixel((image.width - 1, image.height - 1))
                assert (corner > 200) == is_light
                assert "Software" not in image.info


def test_the_first_filters_and_maps_come_from_the_graph(model_dir: Path) -> None:
    filters = first_filters(onnx.load(model_dir / "model.onnx"))
    assert filters is not None
    np.testing.assert_allclose(filters, np.random.default_rng(0).normal(size=(8, 1, 3, 3)), atol=1e-6)
    conv, relu, pooled = early_feature_maps(onnx.load(model_dir / "model.onnx"), digits()[0][0])
    assert [layer.layer for layer in (conv, relu, pooled)] == ["1 convolution", "2 ReLU", "3 max pool"]
    np.testing.assert_array_equal(relu.maps, np.maximum(conv.maps, 0))
    np.testing.assert_array_equal(pooled.maps, relu.maps.reshape(8, 4, 2, 4, 2).max(axis=(2, 4)))


def test_the_maps_that_are_drawn_are_those_of_the_first_test_image(
    splits: Splits, model_dir: Path, out_dir: Path, tmp_path: Path
) -> None:
    first = splits.images[1347]
    (tmp_path / "expected").mkdir()
    figures.feature_maps(tmp_path / "expected", first, early_feature_maps(onnx.load(model_dir / "model.onnx"), first))
    drawn = (out_dir / "figures/feature_maps.png").read_bytes()
    assert drawn == (tmp_path / "expected/feature_maps.png").read_bytes()


def test_a_patch_has_the_fill_of_the_models_transform_or_0_and_the_contact_sheet_is_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 2, (60, 8, 8, 1), np.uint8), rng.integers(0, 2, 60, np.int32)
    splits = write_splits(tmp_path / "splits", images, labels, NAMES[:2], (20, 20))
    (tmp_path / "splits/contact_sheet.png").write_bytes(b"sheet")
    write_linear(tmp_path / "model.onnx", 255 * rng.normal(size=(64, 2)), np.zeros(2), (8, 8, 1))  # 1 is much
    model, settings = OpenedModel.load(tmp_path), FAST.model_copy(update={"worst_errors": 0})
    evaluation, found = assess(settings, splits, model)
    evaluation["looked_at"] = evaluation["looked_at"][:1]
    drawn = {}
    for fill in (None, 0, 1):
        if fill is not None:
            (tmp_path / "transform.json").write_text(json.dumps({"fill": fill}))
        folder = tmp_path / f"figures of {fill}"
        draw(settings, evaluation, found["test"], splits, model, folder)
        drawn[fill] = (folder / "looked_at.png").read_bytes()
        assert (folder / "contact_sheet.png").read_bytes() == b"sheet"
    assert drawn[None] == drawn[0]
    assert drawn[1] != drawn[0]


@pytest.mark.parametrize(
    ("image_shape", "num_classes", "message"),
    [
        ((8, 8, 3), 10, "the model takes images of 8×8×3, the splits hold 8×8×1; train a model on these splits"),
        ((8, 8, 1), 7, "the model knows 7 classes, the splits hold 10"),
    ],
)
def test_a_model_that_does_not_fit_the_splits_is_refused(
    splits: Splits, tmp_path: Path, image_shape: tuple[int, int, int], num_classes: int, message: str
) -> None:
    weights = np.zeros((int(np.prod(image_shape)), num_classes))
    write_linear(tmp_path / "model.onnx", weights, np.zeros(num_classes), image_shape)
    with pytest.raises(DataError, match=message):
        evaluate(FAST, splits, tmp_path, tmp_path)


def test_an_empty_test_split_is_refused(model_dir: Path, tmp_path: Path) -> None:
    images, labels = digits()
    splits = write_splits(tmp_path / "splits", images[:100], labels[:100], NAMES, (80, 20))
    with pytest.raises(DataError, match="the test split has no images"):
        evaluate(FAST, splits, model_dir, tmp_path)


def test_a_missing_model_is_refused(splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"model\.onnx is missing; run the train step"):
        evaluate(FAST, splits, tmp_path, tmp_path)


def test_every_layer_is_drawn_and_not_the_first_ones_alone(tmp_path: Path) -> None:
    layers = (*[Conv(filters=2, padding="same"), Activation()] * 5, Flatten(), Dense())
    torch.manual_seed(0)
    shape = (8, 8, 1)
    export_onnx(modules.build(layers, shape, 10), shape, [0.5], [0.25], tmp_path / "model.onnx")
    assert len(early_feature_maps(onnx.load(tmp_path / "model.onnx"), digits()[0][0])) == 10


def test_a_network_without_an_embedding_has_no_figure_of_what_it_looked_at(tmp_path: Path) -> None:
    images, labels = digits()
    splits = write_splits(tmp_path / "splits", images[:400], labels[:400], NAMES, (200, 100))
    shape = (8, 8, 1)
    layers = (Conv(filters=10), GlobalAveragePool())
    export_onnx(modules.build(layers, shape, 10), shape, [0.5], [0.25], tmp_path / "model.onnx")
    found = evaluated(FAST, splits, tmp_path, tmp_path / "out")
    assert found["looked_at"] == []
    assert not (tmp_path / "out/figures/looked_at.png").exists()


def test_a_holdouts_evidence_is_its_test_split_and_suspects_are_sought_in_all_that_was_not_trained_on(
    evaluation: Any, splits: Splits
) -> None:
    unseen = {name: len(splits.rows(name)) for name in ("val", "test")}
    words = f"{unseen['test']} test images that the model has not seen"
    assert evaluation["method"] == {"name": "holdout", "num_folds": 0, "words": words}
    assert evaluation["suspects"]["num_images"] == sum(unseen.values())
    assert evaluation["facts"]["has_dropout"] is False


def test_the_size_of_the_files_is_the_median_of_the_shorter_sides_of_those_that_were_read(
    splits: Splits, model_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(splits.path, tmp_path / "splits")
    index = pq.read_table(folder / "index.parquet")
    third = len(index) // 3
    sizes = [(30, 40)] * third + [(30, 20)] * third + [(0, 0)] * (len(index) - 2 * third)  # 0: could not be read
    for name, sides in zip(("width", "height"), zip(*sizes, strict=True), strict=True):
        index = index.set_column(index.schema.get_field_index(name), name, [list(sides)])
    pq.write_table(index, folder / "index.parquet")
    found = evaluated(FAST, Splits.open(folder), model_dir, tmp_path / "evaluation")
    assert found["facts"]["source_px"] == 25


def test_a_loss_that_overflowed_is_no_figure_of_the_curves_and_dropout_is_a_fact(
    splits: Splits, model_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(model_dir, tmp_path / "model")
    line = {"epoch": 1, "train_loss": 0.5, "val_loss": math.inf, "train_accuracy": 0.9, "val_accuracy": None}
    (folder / "history.json").write_text(json.dumps([line | {"seconds": 2.0}]))
    layers = [{"type": "dense"}, {"type": "dropout"}]
    (folder / "architecture.json").write_text(json.dumps({"layers": layers}))
    found = evaluated(FAST, splits, folder, tmp_path / "evaluation")
    assert found["curves"] == [line | {"val_loss": None}]
    assert found["facts"]["has_dropout"] is True


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [(["dropout", "dense"], True), (["conv", "dropout2d"], True), (["conv", "dense"], False), ([], False)],
)
def test_dropout_of_values_and_of_maps_both_count(
    splits: Splits, tmp_path: Path, kinds: list[str], expected: bool
) -> None:
    artifacts.write_json(tmp_path / "architecture.json", {"layers": [{"type": kind} for kind in kinds]})
    assert _facts(splits, tmp_path)["has_dropout"] is expected
