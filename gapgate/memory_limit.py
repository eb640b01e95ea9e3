"""Memory that this process may still take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from gapgate.cpu_quota import cgroups

_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""Files of the limit and of the use, and the line in `memory.stat` of what the kernel drops first (cgroups(7))."""


def available_bytes(
    *,
    membership: Path = Path("/proc/self/cgroup"),
    root: Path = Path("/sys/fs/cgroup"),
    machine: Path = Path("/proc/meminfo"),
) -> int:
    """Bytes of memory that are free within the limits of this process's cgroups (v1 and v2) and on the machine; a
    terabyte where nothing says so."""
    return max(0, min([*_left(membership, root), *_left_on(machine)], default=10**12))


def _left(membership: Path, root: Path) -> Iterator[int]:
    for mount, group in cgroups("memory", membership, root):
        # A parent's limit holds for all groups below it.
        for folder in (mount / group, *(mount / group).parents):
            for limit, use, droppable in (_V2, _V1):
                with suppress(OSError, ValueError):  # no such file, or "max"
                    lines = (folder / "memory.stat").read_text().splitlines()
                    spare = next((int(line.split()[1]) for line in lines if line.startswith(droppable + " ")), 0)
                    yield int((folder / limit).read_text()) - int((folder / use).read_text()) + spare
            if folder == mount:
                break


def _left_on(machine: Path) -> Iterator[int]:
    with suppress(OSError):  # no Linux
        for line in machine.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield 1024 * int(line.split()[1])
