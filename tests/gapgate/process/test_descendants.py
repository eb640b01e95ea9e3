"""Real processes: a parent, a child that ends with it, and a grandchild."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gapgate.process.descendants import children
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="pidfd_open is a call of Linux")

CHILD = """
import subprocess, sys, time
from pathlib import Path
from gapgate.process.descendants import end_with
folder = Path(sys.argv[2])
end_with(int(sys.argv[1]), lambda: (folder / "last").touch())
grandchild = subprocess.Popen(["sleep", "600"])
(folder / "ready").write_text(str(grandchild.pid))
time.sleep(600)
"""
PARENT = """
import os, subprocess, sys
subprocess.run(["sh", "-c", '"$@"; true', "sh", sys.executable, "-c", sys.argv[1], str(os.getpid()), sys.argv[2]])
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_child_ends_with_its_parents_parent_and_takes_its_own_children_along(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD, str(tmp_path)])
    ready = tmp_path / "ready"
    wait_for(lambda: ready.exists() and ready.read_text() != "")
    (shell,) = children(parent.pid)
    (child,) = children(shell)
    grandchild = int(ready.read_text())
    assert children(child) == {grandchild}
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not is_alive(child) and not is_alive(grandchild))
    assert (tmp_path / "last").exists()


def test_a_child_that_begins_after_its_parent_has_ended_ends_at_once(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    done = subprocess.run([sys.executable, "-c", CHILD, str(gone.pid), str(tmp_path)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "ready").exists()
