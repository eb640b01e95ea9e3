"""Every environment variable that the code names is in `gapgate.variables` or an option of the server, and read."""

from __future__ import annotations

import re
from pathlib import Path

from gapgate.variables import INTERNAL, OF_TESTS, VARIABLES
from serving.options import Options, variable

ROOT = Path(__file__).parents[2]
SOURCES = ("gapgate", "components", "pipelines", "serving", "cli")
QUOTED = re.compile(r'"(GAPGATE_[A-Z_]+)"')


def text(*folders: str) -> str:
    return "".join(
        path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py") if path.name != "variables.py"
    )


def test_every_variable_of_the_code_is_described() -> None:
    options = {variable(name) for name in Options.model_fields}
    assert set(QUOTED.findall(text(*SOURCES))) <= VARIABLES.keys() | INTERNAL | options
    assert set(QUOTED.findall(text("tests"))) >= OF_TESTS


def test_every_variable_that_is_described_is_in_the_code() -> None:
    code = text(*SOURCES)
    # Those of the two images are put together from the kind.
    composed = {"GAPGATE_STEP_IMAGE", "GAPGATE_TRAIN_IMAGE"}
    assert {name for name in {*VARIABLES, *INTERNAL} - composed if name not in code} == set()
    assert 'f"GAPGATE_{kind.upper()}_IMAGE"' in code
    assert all(meaning.endswith(".") for meaning in VARIABLES.values())
