import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gapgate.evidence import gate
from gapgate.evidence.evaluate import evaluate
from gapgate.evidence.measures.metrics import learning_curve
from gapgate.onnx.inner_layers import FeatureMaps
from gapgate.report import figures, html, verdict
from gapgate.report.html import flatten, gap_in_words
from gapgate.settings.sections import EvaluateSettings, GateSettings
from tests.gapgate.onnx_models import digits, fit_linear, write_model_files, write_splits

HOSTILE = '<script>alert("x")</script> & co'
NAMES = [HOSTILE, "数字", "$x^2$", "a class name " * 8, *(f"digit {i}" for i in range(4, 10))]
VOID = {"meta", "img", "source", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that tags close in order and keeps what matters."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def evaluation_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    images, labels = digits()
    splits = write_splits(root / "splits", images, labels, NAMES, (1200, 147))
    for name in ("contact_sheet.png", "set_aside.png", "near_duplicates.png"):
        Image.new("RGB", (64, 64), "red").save(root / "splits" / name)
    row = ["a/broken.png", HOSTILE, "cannot be used", "the image is truncated"]
    (root / "splits/set_aside.json").write_text(json.dumps({"columns": [], "data": [row]}))
    splits.info["notes"] = ["test/ holds 5 images without class folders and is left out"]
    near = [[1, f"a/twin-{number}.png", NAMES[number], "train"] for number in range(2)]
    (root / "splits/near_duplicates.json").write_text(json.dumps({"columns": [], "data": near}))
    counted = {"set_aside": {"cannot be used": 1}, "near_duplicates": {"images": 2, "sets": 1, "mixed_sets": 1}}
    (root / "splits/splits.json").write_text(json.dumps(splits.info | counted))
    (root / "model").mkdir()
    write_model_files(root / "model", fit_linear(root / "model/model.onnx", images[:300], labels[:300]), images[:10])
    (root / "evaluation").mkdir()
    evaluate(EvaluateSettings(num_resamples=1000), splits, root / "model", root / "evaluation")
    return root / "evaluation"


def rendered(folder: Path, limits: GateSettings = GateSettings()) -> str:  # noqa: B008  (frozen)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    return html.render(evaluation, folder / "figures", gate.judge(limits, evaluation).model_dump(mode="json"))


def test_the_page_is_whole_and_asks_nobody_for_anything(evaluation_dir: Path) -> None:
    text = rendered(evaluation_dir)
    page = Page(text)
    assert page.open == []
    links = [value for _, attrs in page.tags for name, value in attrs.items() if name in {"src", "href", "srcset"}]
    assert len(links) >= 7
    assert all(link is not None and re.match(r"data:image/(png|jpeg);base64,|#[a-z0-9-]+$", link) for link in links)
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {link[1:] for link in links if link and link[0] == "#"} <= ids
    assert not re.search(r"url\(|@import|https?://", text)


def test_the_policy_lets_the_page_run_its_own_script_and_no_other(evaluation_dir: Path) -> None:
    text = rendered(evaluation_dir)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policies = [attrs["content"] for _, attrs in Page(text).tags if attrs.get("http-equiv")]
    assert policies == [f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"]


def test_equal_inputs_give_equal_bytes_and_only_what_is_known_later_adds_to_them(evaluation_dir: Path) -> None:
    evaluation = json.loads((evaluation_dir / "evaluation.json").read_text())
    certificate = gate.judge(GateSettings(), evaluation).model_dump(mode="json")
    given = evaluation, evaluation_dir / "figures", certificate
    plain = html.render(*given)
    assert plain == html.render(*given)
    known = html.render(*given, known={"model": "gapgate version 7", "run": "20261127-045525-5c37"})
    lines = [line for line in known.splitlines() if line not in plain.splitlines()]
    assert lines == [
        "<div><dt>model</dt><dd>gapgate version 7</dd></div>",
        "<div><dt>run</dt><dd>20261127-045525-5c37</dd></div>",
    ]


def test_every_mistake_of_the_confusion_matrix_leads_to_its_images(evaluation_dir: Path) -> None:
    evaluation = json.loads((evaluation_dir / "evaluation.json").read_text())
    page = Page(rendered(evaluation_dir))
    links = {attrs["href"] for tag, attrs in page.tags if tag == "a" and (attrs["href"] or "").startswith("#pair-")}
    counts = evaluation["confusion"]
    wrong = {(row, column) for row in range(10) for column in range(10) if row != column and counts[row][column]}
    assert links == {f"#pair-{row}-{column}" for row, column in wrong}
    text = " ".join(page.text.split())
    for one in evaluation["mistakes"]:
        assert one["id"] in text


def test_of_many_classes_the_most_frequent_mistakes_are_listed_and_lead_to_their_images(
    evaluation_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "MAX_CONFUSION_CLASSES", 9)
    page = Page(rendered(evaluation_dir))
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a" and (attrs["href"] or "").startswith("#pair-")]
    assert links
    assert {f"#{attrs['id']}" for _, attrs in page.tags if attrs.get("id", "").startswith("pair-")} >= set(links)
    counts = json.loads((evaluation_dir / "evaluation.json").read_text())["confusion"]
    of_links = [counts[int(row)][int(column)] for _, row, column in (link.split("-") for link in links)]
    assert of_links == sorted(of_links, reverse=True)


def test_groups_are_told_only_where_they_are_more_than_single_images(evaluation_dir: Path) -> None:
    evaluation = json.loads((evaluation_dir / "evaluation.json").read_text())
    for num_groups, is_told in ((evaluation["accuracy"]["test"]["num_images"], False), (7, True)):
        evaluation["accuracy"]["test"]["num_groups"] = num_groups
        certificate = gate.judge(GateSettings(), evaluation).model_dump(mode="json")
        page = html.render(evaluation, evaluation_dir / "figures", certificate)
        assert ("the intervals draw whole groups" in page) is is_told


def test_train_is_called_augmented_only_where_something_augments(evaluation_dir: Path) -> None:
    evaluation = json.loads((evaluation_dir / "evaluation.json").read_text())
    certificate = gate.judge(GateSettings(), evaluation).model_dump(mode="json")
    for count, is_said in ((0, False), (3, True)):
        evaluation["facts"]["num_operations"] = count
        said = html.render(evaluation, evaluation_dir / "figures", certificate)
        assert ("train (augmented)" in said) == is_said


def test_class_names_are_text_and_nothing_else(evaluation_dir: Path) -> None:
    page = Page(rendered(evaluation_dir))
    assert HOSTILE in page.text
    assert "数字" in page.text


def test_images_set_aside_and_notes_on_the_data_are_told(evaluation_dir: Path) -> None:
    page = Page(rendered(evaluation_dir))
    text = " ".join(page.text.split())
    words_of_files = ("5 images without class folders", "1 images set aside", "a/broken.png", "the image is truncated")
    for words in (*words_of_files, "2 near-duplicates in 1 set", "1 set has several classes", "a/twin-1.png"):
        assert words in text
    shown = [attrs.get("alt") for tag, attrs in page.tags if tag == "img"]
    assert "Images that are in no split, with the reasons" in shown


def test_every_image_has_a_description(evaluation_dir: Path) -> None:
    images = [attrs for tag, attrs in Page(rendered(evaluation_dir)).tags if tag == "img"]
    assert len(images) >= 5
    assert all(attrs["alt"] and attrs["width"] and attrs["height"] for attrs in images)


def test_the_page_names_the_gap_its_interval_and_the_marked_epoch(evaluation_dir: Path) -> None:
    text = " ".join(Page(rendered(evaluation_dir)).text.split())
    assert re.search(r"gap −?\d+\.\d \(−?\d+\.\d to \d+\.\d\)", text)
    assert "With 95 % confidence the true gap lies between" in text
    assert "The validation loss turned after epoch 5" in text
    assert "None" not in text


def test_the_verdict_and_every_reason_are_there(evaluation_dir: Path) -> None:
    evaluation = json.loads((evaluation_dir / "evaluation.json").read_text())
    certificate = gate.judge(GateSettings(max_gap_points=1.0), evaluation)
    text = Page(rendered(evaluation_dir, GateSettings(max_gap_points=1.0))).text
    assert verdict.headline(certificate.model_dump(mode="json")) in text
    assert "Gate: fail" in text
    assert all(check.reason in text for check in certificate.checks)


def test_the_advice_stands_below_the_verdict_in_its_order(evaluation_dir: Path) -> None:
    evaluation = json.loads((evaluation_dir / "evaluation.json").read_text())
    certificate = gate.judge(GateSettings(), evaluation).model_dump(mode="json")
    advice = [{"cause": "leak", "text": f"of {HOSTILE}"}, {"cause": "few photos", "text": "add some"}]
    page = Page(html.render(evaluation, evaluation_dir / "figures", certificate, advice))
    text = " ".join(page.text.split())
    assert page.open == []
    assert (
        f"What now From the figures of this run, the largest expected effect first. Leak: of {HOSTILE} Few photos:"
        in text
    )
    assert "All advice" in text
    assert "All advice" not in rendered(evaluation_dir)


def test_the_page_says_since_when_train_rises_alone_and_that_the_gate_stops_it(evaluation_dir: Path) -> None:
    text = " ".join(Page(rendered(evaluation_dir)).text.split())
    assert re.search(
        r"Since epoch 5, where the validation loss turned, train accuracy went from 92\.0 to 96\.7 % \(\+4\.7 points\) "
        r"and validation accuracy from 89\.0 to 92\.5 % \(\+3\.5 points\): they end 4\.2 points apart\.",
        text,
    )
    said = "The gate measures that space after the training"
    for limit, is_said in ((0.1, True), (90.0, False)):
        assert (said in Page(rendered(evaluation_dir, GateSettings(max_gap_points=limit))).text) == is_said


def test_early_stopping_is_told_from_the_settings_of_the_training(evaluation_dir: Path, tmp_path: Path) -> None:
    evaluation = json.loads((evaluation_dir / "evaluation.json").read_text())
    evaluation["inputs"]["model"] = {"digest": "sha256:0", "inputs": {}, "settings": {"patience": 7, "epochs": 40}}
    shutil.copytree(evaluation_dir / "figures", tmp_path / "figures")
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    assert "Early stopping ended the training after 12 epochs: the model has the weights of epoch 5" in rendered(
        tmp_path
    )


def test_the_ids_of_mistakes_and_of_their_nearest_training_images_are_on_the_page(evaluation_dir: Path) -> None:
    evaluation = json.loads((evaluation_dir / "evaluation.json").read_text())
    text = " ".join(Page(rendered(evaluation_dir)).text.split())
    assert "What it looked at" in text
    assert "5 nearest of the 1,200 training images" in text
    for mistake in evaluation["looked_at"]:
        assert mistake["id"] in text
        for near in mistake["nearest"]:
            assert f"{near['id']} ({evaluation['classes'][near['label']]['name']})" in text


def test_an_evaluation_from_before_these_figures_is_still_a_page(evaluation_dir: Path, tmp_path: Path) -> None:
    evaluation = json.loads((evaluation_dir / "evaluation.json").read_text())
    del evaluation["looked_at"], evaluation["parting"]
    shutil.copytree(evaluation_dir / "figures", tmp_path / "figures", ignore=shutil.ignore_patterns("looked_at.png"))
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    page = Page(rendered(tmp_path))
    assert page.open == []
    assert "What it looked at" not in page.text


def test_the_page_holds_no_path_of_this_machine(evaluation_dir: Path) -> None:
    assert str(evaluation_dir.parent) not in rendered(evaluation_dir)


def test_a_report_without_figures_is_still_a_page(evaluation_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_bytes((evaluation_dir / "evaluation.json").read_bytes())
    page = Page(rendered(tmp_path))
    assert page.open == []
    assert "Accuracy of the ONNX file" in page.text


@pytest.mark.parametrize(
    ("low", "points", "high", "said"),
    [
        (1.0, 2.0, 3.0, "gets about 2.0 fewer right"),
        (-1.0, 0.2, 1.5, "The figures show no difference between training images and new ones."),
        (-3.0, -2.0, -0.5, "does better on new images"),
    ],
)
def test_the_gap_is_put_in_words(low: float, points: float, high: float, said: str) -> None:
    words = gap_in_words({"points": points, "low": low, "high": high, "confidence_level": 0.95})
    assert said in words
    assert "-" not in words.split("between")[1]


def test_flatten_keeps_every_leaf() -> None:
    content = {"a": {"b": 1234, "c": [1, 2]}, "d": [{"e": None}, {"e": True}], "f": {}}
    assert list(flatten(content)) == [("a.b", "1,234"), ("a.c", "1, 2"), ("d.0.e", "none"), ("d.1.e", "true")]


@pytest.mark.parametrize("num_classes", [2, 12, 100])
def test_a_confusion_matrix_of_any_size_is_drawn_within_bounds(num_classes: int, tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 50, (num_classes, num_classes))
    counts[0] = 0
    figures.confusion(tmp_path, counts, [f"a long class name, number {i}" for i in range(num_classes)])
    with Image.open(tmp_path / "confusion.png") as image:
        assert 500 <= image.width == image.height <= 2000


def test_names_that_the_font_lacks_become_numbers_and_long_ones_are_cut() -> None:
    assert figures.label_text("cat", 3) == "cat"
    assert figures.label_text("数字", 3) == "#3"
    assert figures.label_text("x" * 40, 3) == "x" * 19 + "…"


def test_a_history_with_holes_is_drawn(tmp_path: Path) -> None:
    history = [{"epoch": 1, "train_loss": 0.5, "val_loss": None}, {"epoch": 2, "train_loss": 0.4}]
    figures.learning_curves(tmp_path, history, learning_curve(history))
    assert (tmp_path / "learning_curves.png").exists()


@pytest.mark.parametrize("num_epochs", [0, 1, 2, 40])
def test_learning_curves_of_any_length_are_drawn(num_epochs: int, tmp_path: Path) -> None:
    history = [
        {"epoch": at, "train_loss": 1 / at, "val_loss": 1.0, "train_accuracy": 1 - 0.5 / at, "val_accuracy": 0.5}
        for at in range(1, num_epochs + 1)
    ]
    figures.learning_curves(tmp_path, history, learning_curve(history))
    assert (tmp_path / "learning_curves.png").exists() == (num_epochs > 0)


def test_the_space_between_parted_curves_is_shaded(tmp_path: Path) -> None:
    shades = {}
    for name, last in (("together", 0.6), ("apart", 0.9)):
        history = [
            {"epoch": at, "train_loss": 0.5, "val_loss": 0.5, "train_accuracy": accuracy, "val_accuracy": 0.6}
            for at, accuracy in enumerate((0.5, 0.6, last), start=1)
        ]
        figures.learning_curves(tmp_path / name, history, learning_curve(history))
        with Image.open(tmp_path / name / "learning_curves.png") as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        # The muted colour at 22 % on white.
        shades[name] = int((np.abs(pixels - [219, 221, 224]).max(axis=2) <= 3).sum())
    assert shades["apart"] > shades["together"] + 5000


def test_a_layer_of_many_maps_takes_no_more_room_than_eight(tmp_path: Path) -> None:
    sizes = []
    for count in (8, 64):
        maps = [FeatureMaps("1 convolution", np.random.default_rng(0).normal(size=(count, 5, 5)).astype(np.float32))]
        figures.feature_maps(tmp_path / str(count), np.zeros((5, 5, 1), np.uint8), maps)
        with Image.open(tmp_path / str(count) / "feature_maps.png") as image:
            sizes.append(image.size)
    assert sizes[0] == sizes[1]


def test_a_sample_of_the_training_images_is_stated(evaluation_dir: Path, tmp_path: Path) -> None:
    evaluation = json.loads((evaluation_dir / "evaluation.json").read_text())
    assert "random sample" not in rendered(evaluation_dir)
    evaluation["train_sample"] = {"num_images": 100, "of_images": 1200, "is_sample": True, "seed": 4}
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    assert "random sample of 100 of its 1,200 images (seed 4)" in rendered(tmp_path)


def test_the_digests_of_the_inputs_are_on_the_page(evaluation_dir: Path, tmp_path: Path) -> None:
    evaluation = json.loads((evaluation_dir / "evaluation.json").read_text())
    evaluation["inputs"]["splits"] = {"digest": "sha256:5", "settings": {}, "inputs": {"dataset": "sha256:d"}}
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    text = rendered(tmp_path)
    assert "sha256:5" in text
    assert "sha256:d" in text
