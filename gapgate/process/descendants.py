"""Processes that end together: the children of a process, and a child whose parent is gone (on Linux alone)."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path


def kill_descendants(pid: int, spared: Collection[int] = ()) -> None:
    """Kill the children of a process except `spared`, their children, and so on; the process itself goes on."""
    for child in children(pid) - set(spared):
        # Before the child itself: the children of a dead process become those of init, and are not found any more.
        kill_descendants(child)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def end_with(pid: int, last: Callable[[], None] = lambda: None) -> None:
    """End this process and its children as soon as the process `pid`, one of its ancestors, has ended, however it did;
    `last` is called before."""
    if not hasattr(os, "pidfd_open"):
        return
    try:
        ancestor = os.pidfd_open(pid)
    except ProcessLookupError:
        _end(last)
        return

    def watch() -> None:
        poll = select.poll()
        # A pidfd is readable once its process has ended (pidfd_open(2)).
        poll.register(ancestor, select.POLLIN)
        poll.poll()
        _end(last)

    threading.Thread(target=watch, daemon=True, name="end with its parent").start()


def _end(last: Callable[[], None]) -> None:
    kill_descendants(os.getpid())
    with suppress(OSError):
        last()
    # A signal that nothing holds up: no handler, no thread, no flush to a full pipe.
    os.kill(os.getpid(), signal.SIGKILL)


def children(pid: int) -> set[int]:
    """Numbers of the processes that `pid` has started and that are still there."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            # After the name, which may hold anything: state, number of the parent.
            if int(file.read_text().rpartition(")")[2].split()[1]) == pid:
                found.add(int(file.parent.name))
    return found
