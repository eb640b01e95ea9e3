"""Imports: no circle of them, so that every module can be the first one that a process imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("gapgate", "components", "pipelines", "serving", "cli")


def test_no_modules_import_each_other() -> None:
    """A circle fails only where the right one of its modules comes first, so other tests can miss it."""
    modules = {_name(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert len(modules) > 250
    graph = {name: set(_imported(name, path, modules)) for name, path in modules.items()}
    TopologicalSorter(graph).prepare()  # names the modules of a circle


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imported(name: str, path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Yield our modules that run before the module `name` has run: those that it imports, and the packages around
    them, but for those around `name`, which have begun before it."""
    for node in _at_import(ast.parse(path.read_text()).body):
        if isinstance(node, ast.ImportFrom):
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            found = [alias.name for alias in node.names]
        for parts in (each.split(".") for each in found):
            around = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
            yield from (each for each in around & modules.keys() if each != name and not name.startswith(f"{each}."))


def _at_import(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports that run when a module is imported: neither those of functions nor those for types alone."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from _at_import(node.orelse)
        elif isinstance(node, ast.If | ast.Try):
            yield from _at_import([*node.body, *node.orelse])
