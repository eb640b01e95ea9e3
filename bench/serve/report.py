"""The report of the serving benchmark: a section a kind of input, and ratios with their targets."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from bench.http_load import Load
from bench.serve.contestants import BATCH
from bench.serve.rounds import BATCHES, BURST_CONCURRENCY, CONCURRENCY, RATES, Life
from bench.serve.server import Server

AT_LEAST = {"gapgate multipart": 0.85, "gapgate tensor": 0.70, "gapgate batch": 0.80}
"""Name → the smallest ratio that is the target."""
AT_MOST = {"gapgate burst": 1.5, "start gapgate": 3.0, "memory gapgate": 200.0, "environment": 250.0}
"""Name → the largest figure that is the target."""


def rates(loads: Mapping[str, Mapping[str, Sequence[Load]]]) -> None:
    """Requests/s and latencies: row → server → its rounds."""
    for row, title in RATES.items():
        _section(f"{title}, concurrency {CONCURRENCY}", "requests/s", "p50 ms", "p99 ms")
        for name, rounds in loads[row].items():
            percentiles = [np.percentile(load.latencies_s, (50, 99)) * 1e3 for load in rounds]
            p50, p99 = zip(*percentiles, strict=True)
            _row(name, [load.rate for load in rounds], p50, p99)
        _ratios(row, {name: [load.rate for load in rounds] for name, rounds in loads[row].items()}, "bare")


def batches(loads: Mapping[str, Mapping[str, Sequence[Load]]], direct: Mapping[str, Sequence[float]]) -> None:
    """Images/s of requests with a batch, and of the model called directly: row → its rounds."""
    directly = {"batch": "ONNX Runtime, called directly", "batch multipart": "decoded and called directly"}
    for row, title in BATCHES.items():
        figures = {directly[row]: direct[row]} | {
            name: [load.rate * BATCH for load in rounds] for name, rounds in loads[row].items()
        }
        _section(title, "images/s")
        for name, values in figures.items():
            _row(name, values)
        _ratios(row, figures, directly[row])


def lives(measured: Mapping[str, Sequence[Life]]) -> None:
    """First latencies, latencies after a burst, and starts: server → each time that it was started."""
    _section(f"one client, a burst of {BURST_CONCURRENCY}, start", "fresh p50 ms", "p50 ms after it", "start s")
    for name, each in measured.items():
        fresh, after = [life.fresh_ms for life in each], [life.after_ms for life in each]
        _row(name, fresh, after, [life.start_s for life in each])
    for name, each in measured.items():
        fresh, after = [life.fresh_ms for life in each], [life.after_ms for life in each]
        _ratio(f"{name} burst", statistics.median(after) / statistics.median(fresh))
    for name, each in measured.items():
        figure(f"start {name}", statistics.median(life.start_s for life in each), "s")


def memory(servers: Sequence[Server]) -> None:
    """Memory of the worker, the largest process without children, and of all processes of a server together."""
    _section("memory after all loads, MB", "worker RSS", "worker USS", "all processes' PSS", "processes")
    worker_mb = {}
    for server in servers:
        name, tree = server.contestant.name, server.processes()
        parents = {process.ppid() for process in tree}
        used = {process.pid: process.memory_full_info() for process in tree}
        worker = max((used[pid] for pid in used if pid not in parents), key=lambda memory: memory.rss)
        worker_mb[name] = worker.rss / 1e6
        _once(name, worker_mb[name], worker.uss / 1e6, sum(each.pss for each in used.values()) / 1e6, len(tree))
    for name, megabytes in worker_mb.items():
        figure(f"memory {name}", megabytes, "MB")


def figure(name: str, value: float, unit: str) -> None:
    """Print `NAME: 2.1 s`, with its target where it has one."""
    print(f"{name}: {value:.3g} {unit}{_target(name, 'g')}", flush=True)


def _section(title: str, *columns: str) -> None:
    """A heading with the names of its columns."""
    print(f"\n{title:40}   n" + "".join(f"{column:>24}" for column in columns))


def _row(name: str, *columns: Sequence[float]) -> None:
    """One contestant: the number of values, then of each column the median and [smallest, largest]."""
    cells = "".join(f"{_spread(values):>24}" for values in columns)
    print(f"  {name:38}{len(columns[0]):4}{cells}", flush=True)


def _once(name: str, *values: float) -> None:
    """One contestant, measured once."""
    print(f"  {name:38}{1:4}" + "".join(f"{value:>24,.0f}" for value in values), flush=True)


def _ratios(name: str, figures: Mapping[str, Sequence[float]], reference: str) -> None:
    """The ratio of each contestant's median to the reference's."""
    for contestant, values in figures.items():
        if contestant != reference:
            _ratio(f"{contestant} {name}", statistics.median(values) / statistics.median(figures[reference]))


def _ratio(name: str, value: float) -> None:
    """Print `ratio NAME: 0.87`, with its target where it has one."""
    print(f"ratio {name}: {value:.2f}{_target(name, '.2f')}", flush=True)


def _target(name: str, form: str) -> str:
    if name in AT_LEAST:
        return f" (target: at least {AT_LEAST[name]:{form}})"
    return f" (target: at most {AT_MOST[name]:{form}})" if name in AT_MOST else ""


def _spread(values: Sequence[float]) -> str:
    median = statistics.median(values)
    digits = 0 if median >= 100 else 1 if median >= 10 else 2
    smallest, middle, largest = (f"{value:,.{digits}f}" for value in (min(values), median, max(values)))
    return f"{middle} [{smallest}, {largest}]"
