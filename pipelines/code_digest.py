"""What a result depends on beside its settings and its data: the code that computed it."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_OURS = ("gapgate", "components")
_WITHOUT_EFFECT = frozenset(
    f"gapgate.{name}" for name in ("artifacts", "errors", "section", "settings", "overrides", "tracking")
)
"""Modules that carry settings and figures and change none: the settings' values are digested by themselves."""


@cache
def code_digest(*modules: str, root: Path = _ROOT) -> str:
    """sha256 (hex) over the modules and everything of this project that they import. Comments, docstrings and layout
    are no part of it; the platform's modules (`components.platform`) decide on no figure."""
    sha256 = hashlib.sha256()
    for name in sorted(_closure(modules, root)):
        sha256.update(f"{name}\n{_meaning(_file(name, root))}\n".encode())
    return sha256.hexdigest()


def _closure(modules: tuple[str, ...], root: Path) -> set[str]:
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found and name not in _WITHOUT_EFFECT and not name.startswith("components.platform"):
            found.add(name)
            waiting += _imported(name, root)
    return found


def _imported(module: str, root: Path) -> Iterator[str]:
    """The project's modules that a module imports anywhere in it."""
    for node in ast.walk(ast.parse(_file(module, root).read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in _OURS and _file(name, root).exists())


def _file(module: str, root: Path) -> Path:
    place = root.joinpath(*module.split("."))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def _meaning(file: Path) -> str:
    """The syntax tree as text, without docstrings and other bare strings."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [line for line in body if not _is_bare_string(line)] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_bare_string(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)
