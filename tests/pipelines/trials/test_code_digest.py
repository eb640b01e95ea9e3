"""The digest changes with each file of the named packages, and with nothing else."""

from pathlib import Path

import pytest

from pipelines.trials.code_digest import CODE, code_digest
from pipelines.trials.recipe_results import ROOT

FILES = {
    "gapgate/training/loop.py": "def run():\n    return 2\n",
    "gapgate/training/deep/layer.py": "WIDTH = 3\n",
    "gapgate/data/transform.py": "SIZE = 4\n",
    "gapgate/report/html.py": "TITLE = 'a'\n",
    "gapgate/training/notes.md": "a",
}
PACKAGES = ("gapgate.training", "gapgate.data")


def written(root: Path, changes: dict[str, str]) -> Path:
    for name, text in (FILES | changes).items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("changes", "is_another"),
    [
        ({}, False),
        ({"gapgate/report/html.py": "TITLE = 'b'\n"}, False),
        ({"gapgate/training/notes.md": "b"}, False),
        ({"gapgate/training/loop.py": "def run():\n    return 3\n"}, True),
        ({"gapgate/training/deep/layer.py": "WIDTH = 4\n"}, True),
        ({"gapgate/data/transform.py": "SIZE = 5\n"}, True),
        ({"gapgate/data/new.py": ""}, True),
    ],
)
def test_each_file_of_the_packages_counts_and_no_other(tmp_path, changes, is_another):
    before = code_digest(PACKAGES, written(tmp_path / "a", {}))
    assert (before != code_digest(PACKAGES, written(tmp_path / "b", changes))) == is_another


def test_a_text_that_moves_to_another_file_is_another_code(tmp_path):
    moved = {"gapgate/training/loop.py": FILES["gapgate/training/deep/layer.py"]}
    moved["gapgate/training/deep/layer.py"] = FILES["gapgate/training/loop.py"]
    before = code_digest(PACKAGES, written(tmp_path / "a", {}))
    assert before != code_digest(PACKAGES, written(tmp_path / "b", moved))


def test_the_packages_of_the_recipes_are_there():
    assert all(list(ROOT.joinpath(*package.split(".")).glob("*.py")) for package in CODE)
