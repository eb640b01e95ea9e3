"""A lock on the aliases of a registered model, kept in the registry itself, for processes on any machines.

MLflow has no call that changes an alias only if it still names an expected version. But each process can write a tag of
its own on the model, and one request reads the tags of all: that is what Lamport's bakery algorithm needs ("A New
Solution of Dijkstra's Concurrent Programming Problem", 1974). A process takes a number above all that it sees, and
waits for those with a lower one. Nobody needs the address of MLflow's database, and no clock is compared with another.

A process that was killed leaves its tag, which says nothing new any more; who has seen that for a minute removes it. Of
its own workspace a process knows at once, by a file lock, that no other one is at work.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from filelock import FileLock

from components.platform.tracking.mlflow_client import away_errors
from components.platform.workspace import home
from gapgate.artifacts import digest_of, write_text
from gapgate.errors import TrackingError, TrackingRefusedError

if TYPE_CHECKING:
    from mlflow import MlflowClient

TICKET = "gapgate.promoting."
"""Begin of the tags' names; the rest is different for each use of the lock."""
_ABANDONED_S = 60.0
"""Seconds without a new value after which a tag is taken for that of a dead process."""
_RENEWED_S = 15.0
"""Seconds after which a process that waits gives its tag a new value."""
_POLL_S = 0.1


class Held:
    """A place in the queue of one model."""

    def __init__(self, client: MlflowClient, name: str, workspace: str) -> None:
        """Take a place for a process of `workspace`, an identifier; it has the workspace for itself."""
        self._client, self._name = client, name
        self._own = f"{TICKET}{workspace}."
        self._key = self._own + secrets.token_hex(8)
        self._number = self._beat = 0
        self._written_at = 0.0

    def enter(self) -> None:
        """Wait until it is this process's turn.

        Raises:
            TrackingError: the registry does not answer.
        """
        seen: dict[str, tuple[str, float]] = {}
        self._choose()
        while True:
            tickets = self._tickets()
            if self._key not in tickets:  # it was taken for that of a dead process
                self._choose()
                continue
            # Of those that choose still, the number is 0: it may become lower than this one.
            mine = (self._number, self._key)
            before = {key: value for key, value in tickets.items() if (_number(value), key) < mine}
            before = self._without_abandoned(before, seen)
            if not before or time.monotonic() - self._written_at > _RENEWED_S:
                self._renew()
            if not before:
                return
            time.sleep(_POLL_S * len(before))  # who is far behind asks the server less often

    def check(self) -> None:
        """Make sure before a change that no other process can hold the lock, even if the change takes as long as a
        request may.

        Raises:
            TrackingError: this one was held up for too long.
        """
        # A request of 15 s and its repetition end before the others take this process for dead.
        if time.monotonic() - self._written_at > _RENEWED_S + 5:
            raise TrackingError(f"the registry was too slow to change an alias of {self._name} safely; try again")

    def leave(self) -> None:
        """Let the next process in."""
        self._remove(self._key)

    def _choose(self) -> None:
        self._number = 0
        self._write()
        self._number = 1 + max(map(_number, self._tickets().values()), default=0)
        self._write()

    def _renew(self) -> None:
        if time.monotonic() - self._written_at > 1:
            self._write()

    def _without_abandoned(self, tickets: dict[str, str], seen: dict[str, tuple[str, float]]) -> dict[str, str]:
        """Remove those of `tickets` that are of this workspace or have not changed for a minute, and return the others;
        `seen` keeps each value with the time when it was seen first.

        Raises:
            TrackingError: one of another workspace cannot be removed, so that its process may still hold the lock.
        """
        others = {}
        for key, value in tickets.items():
            if seen.get(key, ("",))[0] != value:
                seen[key] = value, time.monotonic()
            if key.startswith(self._own):
                with suppress(TrackingError):  # it holds nobody up in any case
                    self._remove(key)
            elif time.monotonic() - seen[key][1] > _ABANDONED_S:
                with suppress(TrackingRefusedError):  # another process has removed it
                    self._remove(key)
            else:
                others[key] = value
        return others

    def _write(self) -> None:
        self._beat += 1
        with away_errors():
            self._client.set_registered_model_tag(self._name, self._key, f"{self._number}:{self._beat}")
        self._written_at = time.monotonic()

    def _remove(self, key: str) -> None:
        with away_errors():
            self._client.delete_registered_model_tag(self._name, key)

    def _tickets(self) -> dict[str, str]:
        """Name → value of each process's tag."""
        with away_errors():
            tags = self._client.get_registered_model(self._name).tags
        return {key: value for key, value in tags.items() if key.startswith(TICKET)}


@contextmanager
def promotion_lock(client: MlflowClient, name: str) -> Iterator[Held]:
    """The lock on the aliases of the registered model `name`, for the time of the block, which should be short.

    Raises:
        TrackingError: the registry does not answer.
    """
    home().mkdir(parents=True, exist_ok=True)
    with FileLock(home() / f"promote-{name}.lock"):
        held = Held(client, name, _workspace())
        try:
            held.enter()
            yield held
        finally:
            with suppress(TrackingError):  # without an answer it is removed by the next one, after a minute
                held.leave()


def _workspace() -> str:
    """An identifier of this workspace that no other has, a copy of it neither."""
    file = home() / "workspace.id"
    with FileLock(home() / "workspace.lock"):
        if not file.exists():
            write_text(file, secrets.token_hex(16))
    return digest_of([file.read_text(), file.stat().st_dev, file.stat().st_ino]).removeprefix("sha256:")[:16]


def _number(ticket: str) -> int:
    # Of a tag that somebody else wrote: the last in the queue, so that it holds nobody up.
    number = ticket.partition(":")[0]
    return int(number) if number.isdecimal() else 2**62
