"""Memory that this process may still take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from gapgate.process.cpu_quota import cgroups

_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""Files of the limit and of the use, and the line in `memory.stat` of what the kernel drops first (cgroups(7))."""


def available_bytes(
    *,
    membership: Path = Path("/proc/self/cgroup"),
    root: Path = Path("/sys/fs/cgroup"),
    machine: Path = Path("/proc/meminfo"),
) -> int:
    """Bytes of memory that are free on the machine and within the limits of this process's cgroups (v1 and v2)."""
    return max(0, min([_left_on(machine), *_left(membership, root)]))


def _left(membership: Path, root: Path) -> Iterator[int]:
    for mount, group in cgroups("memory", membership, root):
        # A parent's limit holds for all groups below it.
        for folder in (mount / group, *(mount / group).parents):
            for limit, use, droppable in (_V2, _V1):
                # Without a limit v1 gives a number near 2⁶³, which is never the least.
                with suppress(OSError, ValueError):  # no such file, or "max"
                    lines = (folder / "memory.stat").read_text().splitlines()
                    spare = next((int(line.split()[1]) for line in lines if line.startswith(droppable + " ")), 0)
                    yield int((folder / limit).read_text()) - int((folder / use).read_text()) + spare
            if folder == mount:
                break


def _left_on(machine: Path) -> int:
    """Bytes that Linux could give without swapping; on other systems, which do not say it, half of the memory."""
    with suppress(OSError):
        for line in machine.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
