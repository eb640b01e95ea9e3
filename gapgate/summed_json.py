"""JSON files with a sha256 of their content inside, so that one flipped bit is no other content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gapgate.artifacts import digest_of, read_json, write_json
from gapgate.errors import ArtifactError

_SUM = "sum"
_PREFIX = "sha256:"


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object and the sum over it, which is the entry `sum`."""
    write_json(path, {**content, _SUM: digest_of(dict(content))})


def read(path: Path) -> dict[str, Any]:
    """The content of such a file without its sum; empty when there is no such file. One that a version before 0.3 wrote
    has no sum and is not checked.

    Raises:
        ArtifactError: the file is no JSON object, or was changed.
    """
    found = read_json(path, {})
    if not isinstance(found, dict):
        raise ArtifactError(f"{path} is damaged: it holds no JSON object")
    # By the form of the value too: a bit may have flipped in the name of the entry.
    sums = [name for name, value in found.items() if name == _SUM or str(value).startswith(_PREFIX)]
    content = {name: value for name, value in found.items() if name not in sums}
    if sums and (sums != [_SUM] or found[_SUM] != digest_of(content)):
        raise ArtifactError(f"{path} is damaged: its sha256 differs")
    return content
