"""How much of the fault tests runs, and from which seed."""

import os

IS_ALL = os.environ.get("GAPGATE_FAULTS") == "all"
"""True for `make faults`; else a sample, as `make test` runs it."""
SEED = os.environ.get("GAPGATE_FAULTS_SEED") or "0"
"""Where every random moment and place comes from; a failure is repeated with the one that was printed."""


def number(whole: int, sample: int) -> int:
    """How many trials to run."""
    return whole if IS_ALL else sample
