"""Load of a step on its machine, as MLflow's own monitors measure it: processor, memory, disk, network and GPU.

MLflow's own thread asks its server for the run at each sample, and at its end sends what is left, for minutes where the
server is away. Here samples go into the spool as any other figure.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from gapgate.tracking import Tracker

_SHORTEST_S, _LONGEST_S = 5.0, 60.0
_SHARE = 0.1
"""An interval is this share of the time so far: few samples of a short training, and a long one has no thousands."""
_JOIN_S = 1.0


@contextmanager
def sampled(tracker: Tracker) -> Iterator[None]:
    """Report the use of the machine, as `system/...`, some times during the block."""
    stop = threading.Event()
    thread = threading.Thread(target=_sample, args=(tracker, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_JOIN_S)  # the import of MLflow may be at work


def _sample(tracker: Tracker, stop: threading.Event) -> None:
    elapsed_s, number = 0.0, 0
    monitors: list[Any] = []
    while not stop.wait(interval := min(max(_SHARE * elapsed_s, _SHORTEST_S), _LONGEST_S)):
        elapsed_s += interval
        # After the first wait: a training of seconds does not import MLflow.
        monitors = monitors or _monitors()
        figures: dict[str, float] = {}
        for monitor in monitors:
            with suppress(Exception):  # a container may hide a part of its machine, such as its network
                monitor.collect_metrics()
                figures |= monitor.aggregate_metrics()
                monitor.clear_metrics()
        if stop.is_set():
            return
        number += 1
        with suppress(OSError):  # a full disk: the training says it
            tracker.metrics({f"system/{name}": value for name, value in figures.items()}, step=number)


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    found = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with suppress(Exception):  # there is none
        found.append(GPUMonitor())
    return found
