"""The lock files of the images: the versions that everything else is tested with, each by hash, from any index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = {path.stem: path for path in (ROOT / "infra/docker").glob("*.lock")}


def pins(lock: Path) -> set[str]:
    """`NAME==VERSION` with its marker, of each package."""
    return set(re.findall(r"^([a-z0-9._-]+==[^\\]*?) \\$", lock.read_text(), re.MULTILINE))


def test_each_package_has_a_hash_and_no_index_is_named() -> None:
    assert set(LOCKS) == {"step", "train", "uv"}
    for lock in LOCKS.values():
        text = lock.read_text()
        assert len(re.findall(r"\\\n    --hash=sha256:", text)) >= len(pins(lock)) > 0
        assert not re.search(r"://|index|find-links", re.sub(r"#.*", "", text))


@pytest.mark.parametrize("name", ["step", "train"])
def test_an_image_has_the_versions_of_the_project(name: str) -> None:
    assert pins(LOCKS[name]) <= pins(ROOT / "requirements.lock")


def test_what_a_run_installs_has_the_versions_that_are_tested_and_no_tools_of_tests() -> None:
    runtime = pins(ROOT / "runtime.lock")
    assert runtime <= pins(ROOT / "requirements.lock")
    assert pins(LOCKS["train"]) <= runtime
    assert not {pin.partition("==")[0] for pin in runtime} & {"pytest", "playwright", "schemathesis", "mypy", "ruff"}


def test_step_is_train_without_torch() -> None:
    added = {pin.partition("==")[0] for pin in pins(LOCKS["train"]) - pins(LOCKS["step"])}
    assert pins(LOCKS["step"]) < pins(LOCKS["train"])
    assert {"onnxscript", "torch", "torchvision"} < added
    assert not added & {"bentoml", "dvc", "kfp", "mlflow", "onnxruntime"}
