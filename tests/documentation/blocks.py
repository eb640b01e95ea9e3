"""The commands in the pages, and how a test runs each block of them.

A block is run as it stands in a sandbox, unless a comment before it says otherwise:

    <!-- run by: end_to_end/test_dvc.py::test_a_second_repro_does_nothing -->   other tests do
    <!-- needs: cluster -->   it is parsed: the shell's syntax, each command's options, each setting
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.snapshots.references.tables import code, page, table

ROOT = Path(__file__).parents[2]
NEEDS = {
    "cluster": "a Kubernetes cluster",
    "docker": "images that `make images` builds",
    "gpu": "a GPU",
    "remote": "a server or bucket of one's own",
    "minutes": "minutes, for an installation or for trainings that differ in their settings alone",
}
_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<marker>[^>]*) -->\n)?^(?P<indent> *)```(?:bash|sh|console)\n(?P<text>.*?)^ *```$", re.M | re.S
)
_FENCE = re.compile(r"^ *```(\w*)\n.*?^ *```$", re.M | re.S)
_HEREDOC = re.compile(r"(<<'?(\w+)'?.*?)\n.*?\n\2$", re.M | re.S)
_CONTINUED = re.compile(r"\\\n\s*")
_ENDS = {";", ";;", "&&", "||", "|", "&", "(", ")", "{", "}", "do", "done", "then", "!"}
_ASSIGNMENT = re.compile(r"\w+=")


@dataclass(frozen=True, slots=True)
class Block:
    """Commands between two fences."""

    page: str
    """Path of the page, from the root of the repository."""
    marker: str
    text: str

    @property
    def need(self) -> str:
        """What it needs that a test has not; empty: nothing."""
        kind, _, value = self.marker.partition(": ")
        return value if kind == "needs" else ""

    @property
    def tests(self) -> list[str]:
        """The tests that run it, as `file::function` below tests/; empty: none but that of all blocks."""
        kind, _, value = self.marker.partition(": ")
        return value.split(", ") if kind == "run by" else []

    @property
    def lines(self) -> list[str]:
        """Each command with what continues it, without comments."""
        whole = _CONTINUED.sub(" ", _HEREDOC.sub(r"\1", self.text))
        return [line.strip() for line in whole.splitlines() if line.strip() and not line.strip().startswith("#")]

    def calls(self, *programs: str) -> Iterator[list[str]]:
        """The words of each call of `programs` in it, the name first."""
        for line in self.lines:
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if word in _ENDS:
                    if words and Path(words[0]).name in programs:
                        yield [Path(words[0]).name, *words[1:]]
                    words = []
                elif words or not _ASSIGNMENT.match(word):
                    words.append(word)


def pages() -> list[Path]:
    """The pages for users."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks() -> list[Block]:
    """All blocks of commands, in the order of the pages."""
    return [
        Block(
            str(path.relative_to(ROOT)),
            found["marker"] or "",
            re.sub(f"^{found['indent']}", "", found["text"], flags=re.M),
        )
        for path in pages()
        for found in _BLOCK.finditer(path.read_text())
    ]


def languages() -> dict[str, list[str]]:
    """Page → the language of each of its fences; empty: it has none."""
    return {str(path.relative_to(ROOT)): _FENCE.findall(path.read_text()) for path in pages()}


def account() -> str:
    """The list of all commands in the pages, with how each is run."""
    rows = [(block.page, code(line.replace("`", "'")), _how(block)) for block in blocks() for line in block.lines]
    return page(
        [
            "# How the commands in the pages are tested",
            "",
            "Run: as it stands, in a sandbox, by `tests/documentation/test_commands.py`. Parsed: the shell's syntax,",
            "the options and settings of each `gapgate` command, each target of make; the command itself needs what is",
            f"named ({'; '.join(f'{name}: {meaning}' for name, meaning in NEEDS.items())}).",
            *table(("page", "command", "how"), rows),
        ]
    )


def _how(block: Block) -> str:
    if block.need:
        return f"parsed: needs {block.need}"
    return f"run by {', '.join(block.tests)}" if block.tests else "run"
