"""File systems of their own, for tests of disks that are full or closed."""

import subprocess

import pytest


def mounted(folder, *options):
    """A real file system in memory, or a skipped test."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
