"""The messages in docs/troubleshooting.md are those of the code, with `…` in the place of what differs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
ROWS = [plain or fenced for plain, fenced in re.findall(r"^\| (?:`([^`]+)`|`` (.+?) ``) \| ", PAGE, re.M)]


def said() -> str:
    """All texts of the code but docstrings, a line each, with `…` for what is put in."""
    found = []
    for folder in ("gapgate", "components", "pipelines", "serving", "cli"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text())
            docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                match node:
                    case ast.JoinedStr(values=values):
                        found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in values))
                    case ast.Constant(value=str(text)) if node not in docstrings:
                        found.append(text)
    return "\n".join(found)


@pytest.fixture(scope="module")
def texts() -> str:
    return said()


def test_there_are_messages() -> None:
    assert len(ROWS) >= 20


@pytest.mark.parametrize("message", ROWS)
def test_a_message_is_one_of_the_code(message: str, texts: str) -> None:
    parts = [re.escape(part) for part in re.split("…+", message)]
    assert re.search(".*".join(parts), texts)
