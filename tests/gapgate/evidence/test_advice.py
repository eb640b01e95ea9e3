"""Advice: its causes by hand, their order, and the first one on doctored data."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gapgate.data.preprocess import preprocess
from gapgate.evidence.advice import advise, in_lines
from gapgate.evidence.evaluate import evaluate
from gapgate.evidence.gate import judge
from gapgate.settings.sections import EvaluateSettings, GateSettings, PreprocessSettings, TrainSettings
from gapgate.training.augmentation.policy import Rotate, Translate
from gapgate.training.fit import train


def measured(**changes):
    """An evaluation of 400 judged images in 4 classes, 340 of them right, with nothing wrong but the gap."""
    confusion = np.full((4, 4), 5) + np.diag([80] * 4)
    figures = {
        "accuracy": {
            "train": {"value": 0.95, "low": 0.93, "high": 0.97, "num_images": 4000},
            "test": {"value": 0.85, "low": 0.81, "high": 0.89, "num_images": 400},
        },
        "gap": {"points": 10.0},
        "learning_curve": {"num_epochs": 20, "best_epoch": 19, "gap_opens_epoch": None},
        "parting": None,
        "leaks": {"share": 0.0, "copies": 0, "near_duplicates": 0, "groups": 0, "label_conflicts": 0},
        "suspects": {"estimated_wrong": 0},
        "classes": [{"name": name} for name in ("ant", "bee", "fly", "wasp")],
        "confusion": confusion.tolist(),
        "inputs": {"model": {"settings": {"weight_decay": 0.1, "patience": 0}}},
        "facts": {
            "num_images": {"train": 4000},
            "architecture": "small",
            "network": "scratch",
            "image_shape": [32, 32, 1],
            "source_px": 32,
            "num_operations": 3,
            "has_dropout": True,
        },
    }
    facts = changes.pop("facts", {})
    return figures | changes | {"facts": figures["facts"] | facts}


FROZEN = {"architecture": "frozen", "network": "pretrained", "num_operations": 0, "backbone": "efficientnet_lite0"}


def certificate(**verdicts):
    return {
        "checks": [{"name": name, "verdict": verdict, "reason": reason} for name, (verdict, reason) in verdicts.items()]
    }


def causes(evaluation, checks=None):
    return [one["cause"] for one in advise(evaluation, checks or certificate())]


def test_nothing_is_said_where_nothing_would_help():
    """1,000 training images of each class, every remedy in use, and wrong answers that are spread evenly."""
    train_error = {"accuracy": measured()["accuracy"], "gap": {"points": 1.0}}
    assert causes(measured(**train_error)) == []


def test_a_leak_comes_first_whatever_else_is_wrong():
    leaks = {"share": 0.12, "copies": 40, "near_duplicates": 8, "groups": 0, "label_conflicts": 0}
    found = advise(measured(leaks=leaks, suspects={"estimated_wrong": 200}), certificate())
    assert [one["cause"] for one in found][:2] == ["leak", "wrong labels"]
    assert "12.0 % of val and test are in another split too (40 copies, 8 near-duplicates)" in found[0]["text"]


def test_two_classes_that_are_taken_for_each_other_are_named_with_their_count():
    confusion = np.diag([90] * 4)
    confusion[0, 1], confusion[1, 0], confusion[2, 3] = 20, 15, 5
    (found, *_) = advise(measured(confusion=confusion.tolist()), certificate())
    assert found["cause"] == "look-alike classes"
    assert "35 of 40 wrong answers are between 'ant' and 'bee': make" in found["text"]


def test_the_two_classes_of_a_set_of_two_are_not_called_alike():
    two = {"confusion": [[80, 20], [20, 80]], "classes": [{"name": "ant"}, {"name": "bee"}]}
    assert "look-alike classes" not in causes(measured(**two))


def test_few_photos_come_with_the_number_that_the_gate_computed():
    reason = (
        "test accuracy 85.0 % (81.0 to 89.0) reaches both sides of the limit 84.0 %; about 120 more photos would decide"
    )
    checks = certificate(min_test_accuracy=("undecided", reason))
    checks["checks"][0]["images_to_decide"] = 500
    (found,) = [
        one for one in advise(measured(facts={"num_images": {"train": 80}}), checks) if one["cause"] == "few photos"
    ]
    assert found["text"] == "about 120 more photos would decide; now 20 of each class are trained on, on average"
    checks["checks"][0]["images_to_decide"] = 400_000
    (found,) = [
        one for one in advise(measured(facts={"num_images": {"train": 80}}), checks) if one["cause"] == "few photos"
    ]
    assert found["text"].startswith("about 320 more photos would narrow the gap")


@pytest.mark.parametrize(
    ("facts", "cause", "words"),
    [
        (
            {"image_shape": [32, 32, 3], "source_px": 300, "network": "pretrained"},
            "small input",
            "--set preprocess.size_px=224",
        ),
        (
            {"image_shape": [32, 32, 3], "source_px": 96, "network": "pretrained"},
            "small input",
            "--set preprocess.size_px=96",
        ),
        ({"image_shape": [24, 24, 3], "source_px": 24}, "small images", "only 24 px"),
        ({"image_shape": [224, 224, 3], "source_px": 300}, "from scratch", "--set train.architecture=auto"),
        (FROZEN, "fixed features", "--set train.architecture=finetune"),
        ({"num_operations": 0}, "no augmentation", "augment.operations"),
        ({"has_dropout": False}, "no dropout", "{type: dropout}"),
    ],
)
def test_a_setting_that_would_help_is_named(facts, cause, words):
    (found, *_) = advise(measured(facts=facts), certificate())
    assert found["cause"] == cause
    assert words in found["text"]


def test_small_gray_images_are_not_called_small_and_frozen_features_get_no_augmentation():
    assert causes(measured(facts={"source_px": 28, "image_shape": [28, 28, 1]})) == []
    tried = FROZEN | {"tried": "frozen was kept"}
    assert causes(measured(facts=tried)) == []


@pytest.mark.parametrize(
    "facts",
    [
        {"tried": "frozen was kept, finetune had a higher loss"},
        {"backbone": "features.onnx"},
        {"num_images": {"train": 499}},
        {"architecture": "finetune", "num_operations": 3},
    ],
)
def test_features_that_cannot_or_need_not_be_trained_are_left_alone(facts):
    assert "fixed features" not in causes(measured(facts=FROZEN | facts))


def test_features_are_trained_from_500_images_on():
    assert "fixed features" in causes(measured(facts=FROZEN | {"num_images": {"train": 500}}))


def test_the_epoch_that_was_best_is_named_where_validation_turned():
    curve = {"num_epochs": 20, "best_epoch": 5, "gap_opens_epoch": 5}
    changes = {"learning_curve": curve, "parting": {"val": [0.88, 0.85]}}
    (found, *_) = advise(measured(**changes), certificate())
    assert found["text"].startswith("validation was best in epoch 5 of 20: --set train.epochs=5")
    kept = {"inputs": {"model": {"settings": {"weight_decay": 0.1, "patience": 3}}}}
    assert causes(measured(**changes, **kept)) == []


def test_training_that_still_gains_is_told_to_go_on():
    changes = {"learning_curve": {"num_epochs": 4, "best_epoch": 4, "gap_opens_epoch": None}, "gap": {"points": 0.5}}
    accuracy = {"train": {"value": 0.7, "low": 0.68, "high": 0.72}, "test": measured()["accuracy"]["test"]}
    (found, *_) = advise(measured(**changes, accuracy=accuracy), certificate())
    assert "--set train.epochs=8" in found["text"]


def test_a_network_that_was_hardly_trained_is_told_to_go_on_before_all_else():
    changes = {"learning_curve": {"num_epochs": 1, "best_epoch": 1, "gap_opens_epoch": None}, "gap": {"points": 4.0}}
    accuracy = {name: measured()["accuracy"][name] | {"value": 0.25} for name in ("train", "test")}
    facts = {"image_shape": [8, 8, 1], "source_px": 8, "has_dropout": False}
    assert causes(measured(**changes, accuracy=accuracy, facts=facts))[0] == "too few epochs"


def test_figures_of_an_older_version_give_no_advice_and_no_error():
    old = {key: measured()[key] for key in ("accuracy", "gap", "classes", "confusion")}
    assert isinstance(advise(old, certificate()), list)


def test_lines_are_numbered():
    assert in_lines([{"cause": "leak", "text": "take it out"}]) == ["1. leak: take it out"]


FASHION = ("top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
PER_CLASS = 100


@pytest.fixture(scope="module")
def fashion(test_data):
    """The first 3,000 training images of Fashion-MNIST and their classes."""
    with gzip.open(test_data / "fashion-mnist" / "train-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(16 + 3000 * 784)[16:], np.uint8).reshape(-1, 28, 28)
    with gzip.open(test_data / "fashion-mnist" / "train-labels-idx1-ubyte.gz") as file:
        return images, np.frombuffer(file.read(8 + 3000)[8:], np.uint8)


def folder_of(fashion, root, doctored):
    """Class folders of `PER_CLASS` images each, with one thing wrong."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(FASHION):
        images = fashion[0][fashion[1] == label][: 12 if doctored == "few photos" else PER_CLASS]
        for number, pixels in enumerate(images):
            picture, place = Image.fromarray(pixels), Path(name)
            if doctored == "wrong labels" and rng.random() < 0.2:
                place = Path(FASHION[(label + rng.integers(1, 10)) % 10])
            if doctored == "small images":
                picture = picture.resize((7, 7))
            if doctored == "look-alike classes" and name == "bag":
                place = Path(f"bag of {'leather' if rng.random() < 0.5 else 'cloth'}")
            if doctored == "leak":
                place = Path("test" if number < PER_CLASS // 4 else "train", name)
                if number < 10:
                    (root / "train" / name).mkdir(parents=True, exist_ok=True)
                    picture.save(root / "train" / name / f"copy {number}.png")
            (root / place).mkdir(parents=True, exist_ok=True)
            picture.save(root / place / f"{label} {number}.png")
    return root


@pytest.mark.parametrize("doctored", ["leak", "wrong labels", "small images", "few photos", "look-alike classes"])
def test_of_doctored_data_the_first_cause_is_the_right_one(fashion, tmp_path, doctored):
    for name in ("splits", "model", "evaluation"):
        (tmp_path / name).mkdir()
    settings = PreprocessSettings(evidence="holdout", stratify=True, test_fraction=0.3)
    splits = preprocess(settings, folder_of(fashion, tmp_path / "data", doctored), tmp_path / "splits")
    training = TrainSettings(architecture="small", epochs=6)
    train(
        training,
        splits,
        (Translate(max_fraction=0.1), Rotate(max_degrees=8.0)),
        tmp_path / "model",
        tmp_path / "checkpoints",
    )
    evaluation = evaluate(EvaluateSettings(num_resamples=1000), splits, tmp_path / "model", tmp_path / "evaluation")
    checks = judge(GateSettings(), evaluation).model_dump(mode="json")
    assert advise(evaluation, checks)[0]["cause"] == doctored
