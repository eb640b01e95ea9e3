"""The Bento of the newest run, which the benchmarks of the service take by default."""

from __future__ import annotations

import os
from pathlib import Path


def newest_bento(option: str) -> Path:
    """The `.bento` archive of the newest run in this workspace; without one, end and name the option that gives it."""
    runs = Path(os.environ.get("GAPGATE_HOME") or ".gapgate", "runs")
    if not (found := sorted(runs.glob("*/model.bento"))):
        raise SystemExit(f"there is no .bento in {runs}; see --help for how to make one, and name it with {option}")
    return found[-1]
