"""What the process may use of the machine it runs on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def available_cpus(*, membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Processors that this process may keep busy: its affinity, bounded by the CPU quota of its cgroups (v1 and v2).

    `os.cpu_count()` counts the host's processors; a container with a quota of 2 on a host of 64 would start 64 workers.
    A quota of 1.5 counts as 1, since a second thread would spend half its time throttled.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = min(_quotas(membership, root), default=float(affinity))
    return max(1, min(affinity, int(quota)))


def _quotas(membership: Path, root: Path) -> Iterator[float]:
    """The quota, in processors, of every cgroup from this process's own up to the root."""
    for mount, group in _cgroups(membership, root):
        for folder in (mount / group, *(mount / group).parents):
            if (quota := _quota(folder)) is not None:
                yield quota
            if folder == mount:
                break


def _cgroups(membership: Path, root: Path) -> Iterator[tuple[Path, str]]:
    """(mount point, path below it) of the groups that can limit processors; lines are `id:controllers:path`."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            yield root, group.lstrip("/")
        elif "cpu" in controllers.split(","):
            for mount in (root / "cpu", root / controllers):
                yield mount, group.lstrip("/")


def _quota(folder: Path) -> float | None:
    """The quota set on one cgroup, in processors; None: unlimited or not such a folder."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):
        return None
