"""Faults of the machine where nobody foresaw them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from gapgate.errors import fault_of_machine


@pytest.mark.parametrize(
    ("error", "exit_code", "words"),
    [
        (MemoryError(), 1, "not enough memory (MemoryError)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"), 1, "not enough memory"),
        (OSError(errno.ENOSPC, "full", "/a/b"), 2, "cannot use /a/b: the disk is full"),
        (OSError(errno.EFBIG, "large"), 2, "`ulimit -f`"),
        (OSError("20 requested and 3 written"), 2, "not all of it fits"),
        (PermissionError(errno.EACCES, "no", "/a/b"), 2, "no permission there"),
    ],
)
def test_a_fault_of_the_machine_is_one_line_with_its_exit_code(error: Exception, exit_code: int, words: str) -> None:
    found = fault_of_machine(error)
    assert found is not None
    assert found.exit_code == exit_code
    assert words in str(found)


@pytest.mark.parametrize("error", [KeyError("x"), FileNotFoundError(errno.ENOENT, "none", "/a"), ValueError("x")])
def test_a_fault_of_the_code_is_none(error: Exception) -> None:
    assert fault_of_machine(error) is None


def test_a_machine_without_a_place_for_temporary_files_says_where_they_may_go() -> None:
    code = (
        "import os, tempfile\n"
        "from gapgate.errors import fault_of_machine\n"
        "tempfile._candidate_tempdir_list = lambda: ['/dev/null/a']\n"
        "try: tempfile.mkdtemp()\n"
        "except OSError as error: print(fault_of_machine(error))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True)
    assert "No usable temporary directory found in ['/dev/null/a']; free space there, or name a folder" in done.stdout
