"""The table of `bench.serve`, a section at a time, and its ratios."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

AT_LEAST = {"gapgate multipart": 0.85, "gapgate tensor": 0.70, "gapgate batch": 0.80}
"""Targets: the smallest ratio."""
AT_MOST = {"gapgate burst": 1.5, "start gapgate": 3.0, "memory gapgate": 200.0, "environment": 250.0}
"""Targets: the largest figure."""


def section(title: str, *columns: str) -> None:
    """A heading with the names of its columns."""
    print(f"\n{title:40}   n" + "".join(f"{column:>24}" for column in columns))


def row(name: str, *columns: Sequence[float]) -> None:
    """One contestant: the number of values, then of each column the median and [smallest, largest]."""
    cells = "".join(f"{_spread(values):>24}" for values in columns)
    print(f"  {name:38}{len(columns[0]):4}{cells}", flush=True)


def once(name: str, *values: float) -> None:
    """One contestant, measured once."""
    print(f"  {name:38}{1:4}" + "".join(f"{value:>24,.0f}" for value in values), flush=True)


def ratios(name: str, figures: Mapping[str, Sequence[float]], reference: str) -> None:
    """Of each contestant's median over the reference's."""
    for contestant, values in figures.items():
        if contestant != reference:
            ratio(f"{contestant} {name}", statistics.median(values) / statistics.median(figures[reference]))


def ratio(name: str, value: float) -> None:
    """`ratio NAME: 0.87`, with its target where it has one."""
    print(f"ratio {name}: {value:.2f}{_target(name, '.2f')}", flush=True)


def figure(name: str, value: float, unit: str) -> None:
    """`NAME: 2.1 s`, with its target where it has one."""
    print(f"{name}: {value:.3g} {unit}{_target(name, 'g')}", flush=True)


def _target(name: str, form: str) -> str:
    if name in AT_LEAST:
        return f" (target: at least {AT_LEAST[name]:{form}})"
    return f" (target: at most {AT_MOST[name]:{form}})" if name in AT_MOST else ""


def _spread(values: Sequence[float]) -> str:
    median = statistics.median(values)
    digits = 0 if median >= 100 else 1 if median >= 10 else 2
    smallest, middle, largest = (f"{value:,.{digits}f}" for value in (min(values), median, max(values)))
    return f"{middle} [{smallest}, {largest}]"
