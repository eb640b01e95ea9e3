"""The packages that are installed beside `gapgate`, where a project has its own of the same names."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gapgate.errors import SettingsError
from gapgate.variables import environment

_ROOT = Path(__file__).resolve().parents[2]
_NAMES = ("components", "pipelines", "serving")
"""Packages that the Python API imports; the command line, whose `cli` nothing imports, is not among them."""


def refuse_namesakes() -> None:
    """Find out whether this process would import another package in the place of one of ours.

    Raises:
        SettingsError: it would, or has.
    """
    for name in _NAMES:
        place = _place_of(name)
        if place is not None and place.resolve() != _ROOT / name:
            raise SettingsError(
                f"{place} hides Gapgate's package of that name; rename it, or use Gapgate in a program of its own "
                "(`python -P`, with which Python does not look into the program's folder)"
            )


def _place_of(name: str) -> Path | None:
    """Folder or file of what `import name` gives; None if there is nothing, or it does not say."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # of a module that a program has put there itself
        return Path(getattr(sys.modules[name], "__file__", None) or f"<module {name}>")
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or [spec.origin or f"<module {name}>"])
    return Path(places[0]) if places else None


@contextmanager
def first_in_children() -> Iterator[None]:
    """Let the processes that are started in the block import our packages, and none of the same name in the folder
    where they work: `python -m` looks there first."""
    changed = {"PYTHONSAFEPATH": "1"}
    if str(_ROOT) != sysconfig.get_path("purelib"):  # else it is found, and would hide parts of Python's own library
        changed["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    with environment(**changed):
        yield
