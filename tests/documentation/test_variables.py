"""Every environment variable that the code names is in `gapgate.variables` or an option of the server, and read."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from gapgate.variables import INTERNAL, OF_TESTS, VARIABLES
from serving.options import Options, variable

ROOT = Path(__file__).parents[2]
SOURCES = ("gapgate", "components", "pipelines", "serving", "cli")
NAME = re.compile(r"GAPGATE_[A-Z_]+")


def named(*folders: str) -> set[str]:
    """The variables that are whole texts in the code: those that it reads or sets."""
    return {
        node.value
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if path != ROOT / "gapgate" / "variables.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value)
    }


def test_every_variable_of_the_code_is_described() -> None:
    options = {variable(name) for name in Options.model_fields}
    assert named(*SOURCES) <= VARIABLES.keys() | INTERNAL | options
    assert named("tests") >= OF_TESTS


def test_every_variable_that_is_described_is_in_the_code() -> None:
    text = "".join(
        path.read_text() for folder in SOURCES for path in (ROOT / folder).rglob("*.py") if path.name != "variables.py"
    )
    # The names of the two images are put together from the kind; the first by MLflow itself.
    composed = {"GAPGATE_STEP_IMAGE", "GAPGATE_TRAIN_IMAGE"}
    assert {name for name in {*VARIABLES, *INTERNAL} - composed if name not in text} == set()
    assert 'f"GAPGATE_{kind.upper()}_IMAGE"' in text
    assert all(meaning.endswith(".") for meaning in VARIABLES.values())
