"""Digest of the code that a result was computed with."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
CODE = ("gapgate.data", "gapgate.evidence", "gapgate.network", "gapgate.onnx", "gapgate.training")
"""Packages whose code the figures of a training and its evaluation depend on."""


@cache
def code_digest(packages: tuple[str, ...] = CODE, root: Path = _ROOT) -> str:
    """sha256 (hex) over the Python files of packages (dotted names), below `root`: their names and their bytes."""
    sha256 = hashlib.sha256()
    for package in packages:
        for file in sorted(root.joinpath(*package.split(".")).rglob("*.py")):
            content = file.read_bytes()
            # Name and length before the bytes, so that text which moves to another file gives another digest.
            sha256.update(f"{file.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return sha256.hexdigest()
