"""The first word of each docstring."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("gapgate", "components", "pipelines", "serving", "cli", "bench", "infra")
OUTPUT = ROOT / "bench/out"
"""Folder of the benchmarks' results and of their rivals' packages."""
NO_SUBJECT = re.compile(
    r"(after|also|and|as|at|because|before|beside|but|by|for|from|how|if|in|is|it|like|not|of|on|only|or|since|so|that|there"
    r"|this|to|until|what|when|where|whether|which|with|without)\b",
    re.IGNORECASE,
)
"""Words that begin a part of a sentence: what the docstring is of stands later, or nowhere."""


def test_a_docstring_begins_with_what_the_thing_is_or_does():
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py")) if OUTPUT not in file.parents]
    begun = [(f"{file.relative_to(ROOT)}:{line}", text) for file in files for line, text in _strings(file)]
    assert len(begun) > 2000
    assert [place for place, text in begun if NO_SUBJECT.match(text.strip())] == []


def _strings(file):
    """Line and text of each string that stands alone: docstrings, and those below a name."""
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))) if text.strip():
                yield node.lineno, text
