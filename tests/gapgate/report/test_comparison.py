"""Two evaluations side by side."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gapgate.data.splits import Splits
from gapgate.evidence import gate
from gapgate.evidence.compare import Answer, difference_points
from gapgate.evidence.evaluate import evaluate
from gapgate.evidence.measures.gap import Interval
from gapgate.report import comparison
from gapgate.report.comparison import Flip, Side, render
from gapgate.settings.sections import EvaluateSettings, GateSettings
from tests.gapgate.onnx_models import digits, fit_linear, write_model_files
from tests.gapgate.report.test_html import Page, evaluation_dir  # noqa: F401  (a fixture)


def side(folder: Path, name: str, splits: Path) -> Side:
    evaluation = json.loads((folder / "evaluation.json").read_text())
    certificate = gate.judge(GateSettings(), evaluation).model_dump(mode="json")
    settings = {"train": {"epochs": 20 if name == "better" else 3, "seed": 0}}
    known = {"model": f"gapgate, {name}"}
    return Side(name, known, settings, evaluation, certificate, folder / "predictions.parquet", splits)


@pytest.fixture(scope="module")
def sides(evaluation_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Side, Side]:  # noqa: F811
    """The same splits, judged by a model of 300 images and by one of all training images."""
    root, splits = tmp_path_factory.mktemp("better"), evaluation_dir.parent / "splits"
    images, labels = digits()
    (root / "model").mkdir()
    (root / "evaluation").mkdir()
    better = fit_linear(root / "model/model.onnx", images[:1200], labels[:1200])
    write_model_files(root / "model", better, images[:10])
    evaluate(EvaluateSettings(num_resamples=1000), Splits.open(splits), root / "model", root / "evaluation")
    return side(evaluation_dir, "first", splits), side(root / "evaluation", "better", splits)


def test_a_better_model_is_said_to_be_better_with_the_difference_of_the_accuracies(sides: tuple[Side, Side]) -> None:
    old, new = sides
    accuracies = [each.evaluation["accuracy"]["test"]["value"] for each in sides]
    page = Page(render(old, new))
    text = " ".join(page.text.split())
    assert page.open == []
    assert "The second run is better on images that neither has seen" in text
    assert f"both held out: {100 * (accuracies[1] - accuracies[0]):.1f} points" in text
    assert "The second run is worse" in Page(render(new, old)).text
    assert not re.search(r"url\(|@import|https?://", render(old, new))


def test_only_settings_that_differ_are_listed_and_equal_data_is_said_to_be_equal(sides: tuple[Side, Side]) -> None:
    page = render(*sides)
    assert re.search(r"train\.epochs</th><td[^>]*>3</td><td[^>]*>20</td>", page)
    assert "train.seed" not in page
    assert "Both have the same data" in page
    changed = {**sides[1].evaluation, "facts": {**sides[1].evaluation["facts"], "num_images": {"train": 7}}}
    page = render(sides[0], replace(sides[1], evaluation=changed))
    assert re.search(r"num_images\.train</th><td[^>]*>1,200</td><td[^>]*>7</td>", page)


def test_every_image_whose_answer_changed_has_its_picture_and_both_answers(sides: tuple[Side, Side]) -> None:
    page = Page(render(*sides))
    text = " ".join(page.text.split())
    newly_wrong, newly_right = (
        int(re.search(rf"Newly {word} in the second: (\d+)", text)[1])  # type: ignore[index]
        for word in ("wrong", "right")
    )
    accuracies = [each.evaluation["accuracy"]["test"]["value"] for each in sides]
    num_images = sides[0].evaluation["accuracy"]["test"]["num_images"]
    assert newly_right - newly_wrong == round((accuracies[1] - accuracies[0]) * num_images)
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == newly_wrong + newly_right > 10
    assert all(attrs["alt"] and str(attrs["src"]).startswith("data:image/png") for attrs in pictures)


def test_without_the_splits_the_flips_are_listed_by_name(sides: tuple[Side, Side], tmp_path: Path) -> None:
    old, new = (replace(each, splits=tmp_path / "removed") for each in sides)
    page = Page(render(old, new))
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert "Newly right in the second" in page.text


def test_other_classes_make_the_answers_incomparable(sides: tuple[Side, Side]) -> None:
    old, new = sides
    renamed = [{**each, "name": f"other {each['name']}"} for each in new.evaluation["classes"]]
    other = replace(new, evaluation={**new.evaluation, "classes": renamed})
    assert "their answers cannot be compared" in Page(render(old, other)).text


def test_the_interval_of_a_difference_covers_it_95_times_of_100() -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        only_old, only_new, _, _ = rng.multinomial(200, [0.04, 0.09, 0.8, 0.07])
        found = difference_points(int(only_old), int(only_new), 200)
        covered += found.low <= 5 <= found.high
    assert 0.925 <= covered / 400 <= 0.985


@pytest.mark.parametrize("is_mended", [False, True])
def test_flips_whose_wrong_answer_is_the_surest_are_shown(
    sides: tuple[Side, Side], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_mended: bool
) -> None:
    monkeypatch.setattr(comparison, "MAX_FLIPS", 2)
    old, new = (replace(side, splits=tmp_path / "none") for side in sides)
    flips = []
    for name, right, wrong in (("a", 0.9, 0.4), ("b", 0.5, 0.8), ("c", 0.6, 0.7), ("d", 0.7, 0.6)):
        answers = [Answer(name, 0, 0, right, True), Answer(name, 0, 1, wrong, False)]
        flips.append(Flip(*(answers[::-1] if is_mended else answers), 0, ""))
    assert [one.old.id for one in comparison._pictured(flips, old, new)] == ["b", "c"]


def test_every_difference_is_the_second_less_the_first_in_its_unit(sides: tuple[Side, Side]) -> None:
    old, new = (json.loads(json.dumps(side.evaluation)) for side in sides)
    old["gap"] |= {"points": 4.0, "low": 3.0, "high": 5.0}
    new["gap"] |= {"points": 1.5, "low": 1.0, "high": 2.0}
    old["accuracy"]["test"] |= {"value": 0.9, "low": 0.85, "high": 0.95}
    new["accuracy"]["test"] |= {"value": 0.925, "low": 0.9, "high": 0.95}
    old["calibration"]["ece"], new["calibration"]["ece"] = 0.03, 0.055
    pair = (replace(side, evaluation=content) for side, content in zip(sides, (old, new), strict=True))
    found = {name: rest for name, *rest in comparison._figures(*pair)}
    assert found["gap, points"] == ["4.0 (3.0 to 5.0)", "1.5 (1.0 to 2.0)", "−2.5"]
    assert found["accuracy on test"] == ["90.0 % (85.0 to 95.0 %)", "92.5 % (90.0 to 95.0 %)", "+2.5 points"]
    assert found["calibration error"] == ["0.030", "0.055", "+0.025"]


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.1, 2, "better"), (0, 2, "no difference"), (-2, 0, "no difference"), (-2, -0.1, "worse")],
)
def test_the_headline_says_more_only_where_the_interval_leaves_out_zero(low: float, high: float, word: str) -> None:
    assert word in comparison._headline(Interval((low + high) / 2, low, high))
