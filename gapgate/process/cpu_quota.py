"""Processors that this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def available_cpus(*, membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Number of processors that this process may keep busy: its affinity, bounded by the CPU quotas of its cgroups (v1
    and v2).

    `os.cpu_count()` counts the host's processors; a container with a quota of 2 on a host of 64 would start 64 workers.
    A quota of 1.5 counts as 1, since a second thread would spend half its time throttled.
    """
    # Not every system has sched_getaffinity: macOS and Windows lack it.
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = min(_quotas(membership, root), default=float(affinity))
    return max(1, min(affinity, int(quota)))


def _quotas(membership: Path, root: Path) -> Iterator[float]:
    """Quotas, in processors, of every cgroup from this process's own up to the root."""
    for mount, group in cgroups("cpu", membership, root):
        # A parent's quota holds for all groups below it, so the smallest on the way counts.
        for folder in (mount / group, *(mount / group).parents):
            if (quota := _quota(folder)) is not None:
                yield quota
            if folder == mount:
                break


def cgroups(controller: str, membership: Path, root: Path) -> Iterator[tuple[Path, str]]:
    """(mount point, path below it) of each cgroup that can limit what `controller` names, from lines
    `id:controllers:path` (cgroups(7))."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        # At most two splits: the path may hold colons.
        _, controllers, group = line.split(":", 2)
        # cgroup v2 has one hierarchy, without names of controllers (`0::/path`).
        if not controllers:
            yield root, group.lstrip("/")
        elif controller in controllers.split(","):
            # v1 is mounted by one controller's name or by the joint one (`cpu,cpuacct`); systems link one to the other.
            for mount in {root / controller, root / controllers}:
                yield mount, group.lstrip("/")


def _quota(folder: Path) -> float | None:
    """Quota of one cgroup, in processors; None: unlimited, or no such folder."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        # Microseconds of processor time in a period. Unlimited is `max` in v2 and -1 in v1.
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):
        return None
