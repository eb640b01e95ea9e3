"""Settings: the sections of `params.yaml` with their defaults and limits, and `--set`."""

from gapgate.settings.parsing import load, parse

__all__ = ["load", "parse"]
