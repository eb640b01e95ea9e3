"""Settings: the sections of `params.yaml` with their defaults and limits, and `--set`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gapgate.settings.parsing import load, parse

__all__ = ["load", "parse"]


def __getattr__(name: str) -> Any:
    # Imported when first used: parsing imports the layers of a network, which are settings and import this package.
    if name in __all__:
        return getattr(importlib.import_module("gapgate.settings.parsing"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
