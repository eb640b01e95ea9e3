"""Processor quotas, read from files laid out as the kernel does."""

import os

import pytest

from gapgate.process.cpu_quota import available_cpus


@pytest.fixture
def cpus(tmp_path, monkeypatch):
    """available_cpus() of a process with 64 processors in a cgroup; quotas are files below `tmp_path`."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))

    def count(membership, files):
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "membership").write_text(membership)
        return available_cpus(membership=tmp_path / "membership", root=tmp_path / "cgroup")

    return count


V1 = "3:memory:/x\n2:cpu,cpuacct:/docker/abc\n"


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        (
            "0::/pod/box\n",
            {"cpu.max": "max 100000\n", "pod/cpu.max": "350000 100000", "pod/box/cpu.max": "max 1"},
            3,
        ),
        ("0::/pod/box\n", {"pod/cpu.max": "800000 100000", "pod/box/cpu.max": "400000 100000"}, 4),
        (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "600000", "cpu/docker/abc/cpu.cfs_period_us": "100000"}, 6),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "500000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 5),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("", {}, 64),
    ],
)
def test_the_tightest_quota_on_the_way_to_the_root_counts(cpus, membership, files, expected):
    assert cpus(membership, files) == expected


def test_this_process_may_use_at_least_one_processor():
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)
