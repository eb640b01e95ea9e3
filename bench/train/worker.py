"""The contestants' side: after its warm-up a worker gives one figure for each line on stdin. Standard library only."""

from __future__ import annotations

import sys
from collections.abc import Callable


def serve(measure: Callable[[], float], note: str = "") -> None:
    """Print `ready` and the note, then for each line on stdin what `measure` returns, until stdin ends."""
    print(f"ready {note}".strip(), flush=True)
    for _ in sys.stdin:
        print(measure(), flush=True)
