"""Processor time of a call: a measure of work that other programs on the machine do not change."""

import time
from collections.abc import Callable


def processor_s(call: Callable[[], object]) -> float:
    """Seconds that this thread computes in `call`; time in which it waits or another program runs is not counted."""
    begun = time.thread_time()
    call()
    return time.thread_time() - begun
