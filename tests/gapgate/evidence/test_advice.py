"""Advice: its causes by hand, their order, and the first one on doctored data."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gapgate.data.preprocess import preprocess
from gapgate.evidence import advice
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


def points(checks=None, **changes):
    """Cause → its expected effect in points, of `measured` with changes: an error of 15, a gap of 10, 5 points of train
    not learned, and an interval of 4 points on either side."""
    figures = advice._Figures(measured(**changes), checks or certificate())
    return {one.cause: one.points for cause in advice._CAUSES for one in cause(figures)}


UNDECIDED = certificate(min_test_accuracy=("undecided", "x; about 120 more photos would decide"))


@pytest.mark.parametrize(
    ("num_train", "checks", "expected"),
    [
        (4000, None, None),  # 1,000 of each class, and the gate has decided
        (3999, None, 10 * (1 - 2**-0.22)),
        (4000, UNDECIDED, 10 * (1 - 2**-0.22) + 4),
        (80, None, 10 * (1 - 5**-0.22)),  # 20 of each class: five times as many make 100
        (80, UNDECIDED, 10 * (1 - 5**-0.22) + 4),
    ],
)
def test_more_photos_narrow_the_gap_by_the_power_law_and_the_interval_where_it_decides(num_train, checks, expected):
    found = points(checks, facts={"num_images": {"train": num_train}}).get("few photos")
    assert found == (expected and pytest.approx(expected))


@pytest.mark.parametrize(("needed", "is_told"), [(4000, True), (4001, False)])
def test_ten_times_the_judged_images_are_the_most_that_are_asked_for(needed, is_told):
    checks = certificate(min_test_accuracy=("undecided", "x; about 120 more photos would decide"))
    checks["checks"][0]["images_to_decide"] = needed
    found = [one["text"] for one in advise(measured(), checks) if one["cause"] == "few photos"]
    assert found[0].startswith("about 120 more photos would decide; now 1,000 of each class") == is_told


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"image_shape": [32, 32, 3], "source_px": 47}, {"small images": 15 * 0.4296875}),  # 47 px: less than 1.5 times
        ({"image_shape": [32, 32, 3], "source_px": 48}, {"small input": 15 * 0.5}),
        ({"image_shape": [32, 32, 1], "source_px": 47}, {}),  # gray: readable
        ({"image_shape": [8, 8, 1], "source_px": 8}, {"small images": 15 * 0.65}),
        ({"image_shape": [64, 64, 3], "source_px": 63}, {"small images": 15 * 0.3546875}),
        ({"image_shape": [64, 64, 3], "source_px": 64}, {"from scratch": 15 * 0.55}),
        ({"image_shape": [64, 64, 1], "source_px": 64}, {}),
        ({"image_shape": [64, 64, 3], "source_px": 64, "network": "pretrained"}, {}),
        ({"image_shape": [224, 224, 3], "source_px": 900, "network": "pretrained"}, {}),
        ({**FROZEN, "image_shape": [224, 224, 3], "source_px": 300}, {"fixed features": 15 * 0.35}),
    ],
)
def test_size_and_features_take_their_share_of_the_errors(facts, expected):
    names = ("small images", "small input", "from scratch", "fixed features")
    found = {name: value for name, value in points(facts=facts).items() if name in names}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("facts", "weight_decay", "expected"),
    [
        # Each remedy takes its share of what the ones before it leave of the gap of 10.
        ({"num_operations": 0, "has_dropout": False}, 0.0, (7.0, 0.65 * 3, 0.45 * 3 * 0.35)),
        ({"num_operations": 0}, 0.0, (7.0, None, 0.45 * 3)),
        ({"has_dropout": False}, 0.0, (None, 6.5, 0.2 * 3.5)),
        ({"has_dropout": False, "network": "pretrained", "architecture": "finetune"}, 0.0, (None, None, 2.0)),
        ({}, 0.099, (None, None, 2.0)),
        ({}, 0.1, (None, None, None)),
        ({"num_operations": 0, "has_dropout": False, "architecture": "frozen"}, 0.0, (None, None, None)),
    ],
)
def test_regularisation_takes_its_share_of_the_gap_one_after_the_other(facts, weight_decay, expected):
    settings = {"model": {"settings": {"weight_decay": weight_decay, "patience": 0}}}
    found = points(facts=facts, inputs=settings)
    for name, wanted in zip(("no augmentation", "no dropout", "little weight decay"), expected, strict=True):
        assert found.get(name) == (wanted and pytest.approx(wanted)), name


@pytest.mark.parametrize(("weight_decay", "tried"), [(0.0, "0.1"), (0.005, "0.1"), (0.03, "0.3")])
def test_ten_times_the_weight_decay_is_tried_and_a_tenth_at_least(weight_decay, tried):
    settings = {"model": {"settings": {"weight_decay": weight_decay}}}
    (found,) = [one for one in advise(measured(inputs=settings), certificate()) if "decay" in one["cause"]]
    assert found["text"] == f"train.weight_decay is {weight_decay:g}: try {tried}"


def test_stopping_at_the_best_epoch_takes_a_quarter_of_the_gap_and_wins_what_was_lost_since():
    curve = {"num_epochs": 20, "best_epoch": 5, "gap_opens_epoch": 5}
    assert points(learning_curve=curve, parting={"val": [0.88, 0.85]})["too many epochs"] == pytest.approx(2.5 + 3)
    assert points(learning_curve=curve, parting={"val": [0.85, 0.88]})["too many epochs"] == pytest.approx(2.5)
    assert points(learning_curve=curve)["too many epochs"] == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("num_epochs", "best", "train", "gap", "expected"),
    [
        (1, 1, 0.7, 1, 27),
        (2, 2, 0.7, 1, 27),
        (3, 3, 0.7, 1, 7.5),
        (4, 3, 0.7, 1, None),
        (3, 3, 0.96, 1, None),  # 4 points are no more than are always left
        (3, 3, 0.7, 29, 7.5),
        (3, 3, 0.7, 31, None),  # it overfits
    ],
)
def test_more_epochs_win_a_share_of_what_is_not_learned(num_epochs, best, train, gap, expected):
    accuracy = {"train": {"value": train, "low": 0, "high": 1}, "test": measured()["accuracy"]["test"]}
    curve = {"num_epochs": num_epochs, "best_epoch": best, "gap_opens_epoch": None}
    found = points(accuracy=accuracy, learning_curve=curve, gap={"points": gap})
    assert found.get("too few epochs") == (expected and pytest.approx(expected))


def test_wrong_labels_cost_their_share_of_the_judged_images():
    assert points(suspects={"estimated_wrong": 20})["wrong labels"] == pytest.approx(5)
    assert causes(measured(suspects={"estimated_wrong": 2}, gap={"points": 0})) == ["wrong labels"]  # half a point
    assert causes(measured(suspects={"estimated_wrong": 1}, gap={"points": 0})) == []


def test_look_alike_classes_cost_their_mistakes_in_both_directions_beyond_chance():
    confusion = np.diag([90] * 4)
    confusion[0, 1], confusion[1, 0], confusion[2, 3] = 20, 15, 5
    # 35 of 400 judged images. Of 12 wrong labels a sixth lies on each of the six pairs by chance.
    assert points(confusion=confusion.tolist())["look-alike classes"] == pytest.approx(100 * 35 / 400)
    found = points(confusion=confusion.tolist(), suspects={"estimated_wrong": 12})
    assert found["look-alike classes"] == pytest.approx(100 * (35 - 2) / 400)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        # Of six pairs a third of the wrong answers is twice the average.
        ({(0, 1): 8, (2, 3): 7, (0, 2): 9}, "'ant' and 'fly' (9), 'ant' and 'bee' (8)"),
        ({(0, 1): 4, (1, 0): 1}, "'ant' and 'bee':"),
        ({(0, 1): 4}, ""),  # too few to stand out
    ],
)
def test_pairs_stand_out_from_twice_the_average_on(wrong, named):
    confusion = np.diag([90] * 4)
    for pair, count in wrong.items():
        confusion[pair] = count
    found = [one["text"] for one in advise(measured(confusion=confusion.tolist()), certificate())]
    said = [text for text in found if "wrong answers are between" in text]
    assert (named in said[0]) if named else not said


def test_of_three_classes_a_pair_stands_out_with_most_of_the_wrong_answers():
    names = {"classes": [{"name": name} for name in ("ant", "bee", "fly")]}
    for counts, is_told in (((12, 8), True), ((11, 9), False)):  # 0.6 of 20 are 12
        confusion = np.diag([90] * 3)
        confusion[0, 1], confusion[1, 2] = counts
        assert ("look-alike classes" in points(confusion=confusion.tolist(), **names)) == is_told


@pytest.mark.parametrize(
    ("support", "is_told"), [((20, 100, 100, 100), True), ((50, 100, 100, 100), True), ((51, 100, 100, 100), False)]
)
def test_a_class_of_half_the_images_and_less_recall_is_uneven(support, is_told):
    # The first class has a recall of a half, the others of 0.9: half of what is missing, spread over four classes.
    confusion = np.zeros((4, 4), int)
    for label, count in enumerate(support):
        right = count // 2 if label == 0 else 9 * count // 10
        confusion[label, label], confusion[label, (label + 1) % 4] = right, count - right
    found = points(confusion=confusion.tolist()).get("uneven classes")
    recall = (support[0] // 2) / support[0]
    assert found == (pytest.approx(50 * (0.9 - recall) / 4) if is_told else None)


def test_a_small_class_that_is_recognised_as_well_as_others_is_not_uneven():
    confusion = np.diag([20, 100, 100, 100])
    assert "uneven classes" not in points(confusion=confusion.tolist())


@pytest.mark.parametrize(
    ("share", "verdict", "is_told"), [(0.0099, "pass", False), (0.01, "pass", True), (0.001, "fail", True)]
)
def test_a_leak_is_told_from_a_hundredth_on_or_where_the_gate_fails_by_it(share, verdict, is_told):
    leaks = {"share": share, "copies": 3, "near_duplicates": 0, "groups": 0, "label_conflicts": 2}
    checks = certificate(max_leaked_share=(verdict, "x"))
    found = [one["text"] for one in advise(measured(leaks=leaks), checks) if one["cause"] == "leak"]
    assert bool(found) == is_told
    assert all("(3 copies, 2 images with two labels)" in text for text in found)


def test_the_largest_effect_comes_first_and_five_are_told_at_most():
    facts = {"num_operations": 0, "has_dropout": False, "image_shape": [32, 32, 3], "source_px": 300}
    curve = {"num_epochs": 20, "best_epoch": 5, "gap_opens_epoch": 5}
    changes = {"facts": facts, "learning_curve": curve, "suspects": {"estimated_wrong": 80}}
    told, all_points = causes(measured(**changes)), points(**changes)
    assert len(told) == advice.MAX_LINES < len([one for one in all_points.values() if one >= advice.LEAST_POINTS])
    assert told == sorted(all_points, key=lambda cause: -all_points[cause])[:5]
    assert told[0] == "wrong labels"


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
