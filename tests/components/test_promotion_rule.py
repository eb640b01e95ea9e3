"""The promotion rule step by step, with a registry in memory; `test_promotion` has it with MLflow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from components import promotion
from components.platform.registry.mlflow_registry import Version
from components.promotion import DECISION_TAG, classes_of, decide, present
from tests.gapgate.onnx_models import write_splits


def version(number: int, *aliases: str, name: str = "gapgate", **tags: str) -> Version:
    tags = {f"gapgate.{key}": value for key, value in tags.items()}
    return Version(name, str(number), aliases, {"gapgate.verdict": "pass", **tags}, f"run {number}")


class Registry:
    """A registry whose champion is, one question after the other, one of `champions`; it keeps what it is told."""

    def __init__(self, *champions: Version | None) -> None:
        self._champions = [*champions]
        self.told: list[Any] = []

    def champion(self, name: str) -> Version | None:
        return self._champions.pop(0) if len(self._champions) > 1 else self._champions[0]

    @contextmanager
    def exclusive(self, name: str) -> Iterator[str]:
        self.told.append("locked")
        yield "held"
        self.told.append("free")

    def challenge(self, version: Version, held: str) -> None:
        self.told.append(("challenge", version.version, held))

    def promote(self, passed: Any, held: str, ends_challenge: bool) -> None:
        self.told.append(("promote", passed, held, ends_challenge))

    def tag(self, version: Version, tags: dict[str, str]) -> None:
        self.told.append(("tag", version.version, json.loads(tags[DECISION_TAG])))

    def package(self, version: Version, folder: Path) -> Any:
        return SimpleNamespace(folder=Path(f"package of {version.version}"))

    def answers_file(self, passed: Any, version: Version, folder: Path) -> str:
        return f"answers of {version.version}"


def decided(registry: Registry, new: Version) -> dict[str, Any]:
    return decide(registry, "passed", new, {})  # type: ignore[arg-type]


def test_the_first_version_becomes_champion_and_the_decision_is_written_last_under_the_lock() -> None:
    registry = Registry(None)
    found = decided(registry, version(1))
    assert found == {"alias": "champion", "reason": "the first version that passed"}
    assert registry.told == ["locked", ("promote", "passed", "held", True), ("tag", "1", found), "free"]


@pytest.mark.parametrize("not_worse", [True, False])
def test_a_version_that_is_not_worse_is_promoted_and_another_one_challenges(
    monkeypatch: pytest.MonkeyPatch, not_worse: bool
) -> None:
    compared = {"not_worse": not_worse, "reason": "it is level"}
    monkeypatch.setattr(promotion, "_compared", lambda *_: compared)
    registry = Registry(version(4, "champion"))
    found = decided(registry, version(5))
    alias = "champion" if not_worse else "challenger"
    assert found == {"alias": alias, "reason": "against version 4: it is level", "comparison": compared}
    step = ("promote", "passed", "held", True) if not_worse else ("challenge", "5", "held")
    assert registry.told == ["locked", step, ("tag", "5", found), "free"]


def test_a_version_that_an_earlier_try_promoted_is_not_promoted_again() -> None:
    registry = Registry(version(5, "champion"))
    found = decided(registry, version(5))
    assert found == {"alias": "champion", "reason": "an earlier try of this step promoted it"}
    assert registry.told == ["locked", ("tag", "5", found), "free"]


def test_a_decision_that_was_written_holds() -> None:
    registry, kept = Registry(version(9, "champion")), {"alias": "challenger", "reason": "then"}
    found = decided(registry, version(5, promotion=json.dumps(kept)))
    assert found == kept
    assert registry.told == []


def test_a_champion_that_was_promoted_meanwhile_is_the_one_to_compare_with(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def compared(registry: Registry, champion: Version, *_: Any) -> dict[str, Any]:
        seen.append(champion.version)
        return {"not_worse": champion.version == "3", "reason": "x"}

    monkeypatch.setattr(promotion, "_compared", compared)
    # Version 3 when it is judged first, 4 under the lock and from then on.
    registry = Registry(version(3, "champion"), version(4, "champion"))
    assert decided(registry, version(5))["alias"] == "challenger"
    assert seen == ["3", "4"]
    assert [step[0] for step in registry.told if step not in ("locked", "free")] == ["challenge", "tag"]


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    splits = write_splits(
        tmp_path / "splits", np.arange(10, dtype=np.uint8)[:, None, None, None], np.arange(10, dtype=np.int32) % 2,
        ["ant", "bee"], (4, 3),
    )  # fmt: skip
    described = {"class_names": ["ant", "bee"]}
    model = SimpleNamespace(path=tmp_path / "model", read_json=lambda name: described)
    return {
        "splits": SimpleNamespace(path=splits.path),
        "model": model,
        "evaluation": SimpleNamespace(path=tmp_path / "evaluation"),
    }


class Result:
    def model_dump(self, mode: str) -> dict[str, Any]:
        return {"not_worse": True, "reason": "level"}


@pytest.mark.parametrize("num_folds", [0, 5])
def test_the_champion_is_the_old_one_of_the_comparison_on_test_images_or_held_out_answers(
    inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, num_folds: int
) -> None:
    if num_folds:
        (inputs["splits"].path / "splits.json").write_text(json.dumps({"class_names": ["ant", "bee"], "num_folds": 5}))
    given: list[Any] = []
    monkeypatch.setattr(promotion.Classifier, "load", lambda path: str(path))
    for name in ("compare", "compare_answers"):
        monkeypatch.setattr(promotion, name, lambda *args, name=name: given.append((name, *args)) or Result())
    champion = version(4, "champion", classes=classes_of(inputs["model"]))
    found = promotion._compared(Registry(champion), champion, version(5), inputs)  # type: ignore[arg-type]
    assert found == {"champion_version": "4", "not_worse": True, "reason": "level"}
    ((name, old, new, *rest),) = given
    if num_folds:
        answers = inputs["evaluation"].path / "predictions.parquet"
        assert (name, old, new, rest) == ("compare_answers", "answers of 4", answers, [])
        return
    assert (name, old, new) == ("compare", "package of 4/model.onnx", str(inputs["model"].path / "model.onnx"))
    images, labels = rest
    assert (images.ravel().tolist(), labels.tolist()) == ([7, 8, 9], [1, 0, 1])  # the rows of test


@pytest.mark.parametrize(("name", "option"), [("gapgate", ""), ("flowers", " --model flowers")])
def test_a_champion_of_other_classes_cannot_be_compared(inputs: dict[str, Any], name: str, option: str) -> None:
    champion = version(4, "champion", name=name, classes="sha256:others")
    found = promotion._compared(Registry(champion), champion, version(5, name=name), inputs)  # type: ignore[arg-type]
    assert not found["not_worse"]
    assert found["reason"] == f"it knows other classes; `gapgate promote 5{option}` makes it champion"


@pytest.mark.parametrize(
    ("aliases", "alias"), [((), ""), (("challenger",), "challenger"), (("challenger", "champion"), "champion")]
)
def test_a_model_that_is_registered_already_has_the_alias_that_it_has_now(aliases: tuple[str, ...], alias: str) -> None:
    assert present(version(3, *aliases), "r1") == {
        "alias": alias,
        "reason": "run r1 registered the same model with the verdict pass",
        "known_from": "r1",
    }


def test_the_order_of_classes_counts() -> None:
    def digest(*names: str) -> str:
        return classes_of(SimpleNamespace(read_json=lambda name: {"class_names": list(names)}))  # type: ignore[arg-type]

    assert digest("ant", "bee") == digest("ant", "bee")
    assert digest("ant", "bee") != digest("bee", "ant")
