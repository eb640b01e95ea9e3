"""A watcher that follows a model in a registry while the server runs.

A new version is fetched, loaded beside the current model, and then switched to. A version that may not be served is
refused, and the current model goes on answering.

Each worker has its own watcher. One follower for all would leave them what they have, a thread that loads and proves
the model, a hold on its folder and the reason of a refusal, and two servers with one cache still need its lock; what it
would add is a process to watch over and a channel to the workers, and the parent cannot be it, since it starts no
thread so that its forks are safe.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from gapgate.errors import GapgateError, RegistryError, StorageError, TrackingError
from serving.model.registry import MlflowRegistry, Resolved

_LOG = logging.getLogger("gapgate.serving")
_STOP_TIMEOUT_S = 1.0
_PASSING = (RegistryError, StorageError, TrackingError, OSError, MemoryError)
"""Errors that a retry may not meet again; nothing was found wrong with the version itself."""
Model = TypeVar("Model")


class Watcher(Generic[Model]):
    """A thread that polls a registry every `poll_s` seconds.

    `load` opens the folder of a package, which may take long, and raises `GapgateError` to refuse it; `switch` makes
    the loaded model the one that answers; `current` returns that model or None. All three are called in the watcher's
    thread, or in the one that calls `serve_last`.
    """

    # No lock: one thread writes at a time, because `serve_last` returns before `start`. Requests read `refused` and
    # `problem` in another thread; each is replaced whole, and a reader sees the old or the new text.

    def __init__(
        self,
        registry: MlflowRegistry,
        poll_s: float,
        load: Callable[[Path], Model],
        switch: Callable[[Model], None],
        current: Callable[[], Model | None],
    ) -> None:
        self._registry, self._poll_s = registry, poll_s
        self._load, self._switch, self._current = load, switch, current
        self.served: Resolved | None = None
        """The version that was switched to last; None before the first."""
        self.refused = ""
        """The reason why the version that the registry names is refused; empty if it is not."""
        self.problem = ""
        """The reason why the registry cannot be followed now: it is away, has no such model, or the package is still to
        come. Empty if there is none."""
        self._refused: Resolved | None = None
        self._unusable: Resolved | None = None
        self._hindrance = ""
        self._is_away = False
        self._folders: list[Path] = []
        self._stopped = threading.Event()
        # A daemon: a download blocked in a read must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="registry-watcher", daemon=True)

    def serve_last(self) -> None:
        """Serve the version followed last from the cache, without a request to the registry. Never raises.

        It makes a restart quick: call it before `start`, whose first poll can last as long as the registry's timeout.
        A package that is damaged or does not load is not served. The first poll then serves what the registry names.
        """
        self._serve_last(self._registry.cached)

    def start(self) -> None:
        """Start the thread, which polls at once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop polling within about a second; a download in progress ends with the process and is not used."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_TIMEOUT_S)

    def poll_once(self) -> None:
        """Ask the registry once, and switch to the version that it names if that is another one. Never raises."""
        try:
            awaited = self._follow(self._registry.resolve())
            self._note(awaited, logging.INFO)
        except (TrackingError, RegistryError, StorageError) as error:
            self._note(str(error), away=isinstance(error, TrackingError))
        except (OSError, MemoryError) as error:
            self._note(f"{reason_of(error)}; it is tried again")
        except Exception as error:  # a thread that ended unseen would follow nothing for ever
            self._note(reason_of(error), trace=True)
        # Still no model, for example at a start with a refused version: an older one is better than none. Here the
        # package may be downloaded again, which `serve_last` does not do.
        if self._current() is None and not self._stopped.is_set():
            self._serve_last(self._registry.fetch)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.poll_once()
            self._stopped.wait(self._poll_s)

    def _follow(self, named: Resolved) -> str:
        """Serve or refuse the version that the registry names, if it is new; return the missing part it waits for."""
        # All fields are compared: a new tag or package of the same version makes it worth another try.
        if named == self._refused:
            return ""
        self._refused, self.refused = None, ""
        if not named.is_package(self.served) and not named.awaited:
            try:
                self._put_in_place(named, self._registry.fetch)
                # Only now: a restart must not find a note of a version that never loaded.
                self._registry.follow(named)
            except _PASSING:
                raise
            except Exception as error:
                self._refused = named
                self._refuse(named, error)
        return named.awaited

    def _serve_last(self, fetch: Callable[[Resolved], Path | None]) -> None:
        """Serve the version that was followed last, while no model is served yet; `fetch` brings its package."""
        last = self._registry.followed()
        if last is None or last in (self._refused, self._unusable):
            return
        try:
            self._put_in_place(last, fetch)
        except (RegistryError, TrackingError):
            return  # `problem` says it already, and the next poll tries again
        except _PASSING as error:
            self._hinder(last, reason_of(error))
        except Exception as error:
            self._unusable = last
            self._refuse(last, error)

    def _put_in_place(self, resolved: Resolved, fetch: Callable[[Resolved], Path | None]) -> None:
        """Fetch, load and switch to a version; nothing changes if any of these fails."""
        try:
            if (folder := fetch(resolved)) is None:
                return
            model = self._load(folder)
            if self._stopped.is_set():  # loading took its time; a server that ends needs no other model
                return
            self._switch(model)
            # The model before may still be answering: its folder, which it has mapped, is kept until the next switch.
            self._folders = [*self._folders[-1:], folder]
        finally:
            # After a failure too: then this releases the folder that `fetch` holds for the version that was not served.
            self._registry.keep(self._folders)
        self.served = resolved
        _LOG.info("%s is served", resolved, extra=_fields("model_switched", resolved))

    def _hinder(self, resolved: Resolved, reason: str) -> None:
        """Log once why a version without a fault cannot be served now."""
        if reason != self._hindrance:
            extra = _fields("model_hindered", resolved) | {"reason": reason}
            _LOG.warning("%s is not served yet: %s; it is tried again", resolved, reason, extra=extra)
        self._hindrance = reason

    def _refuse(self, resolved: Resolved, error: Exception) -> None:
        """Log a refusal and keep its reason. An error of another library gets a traceback: a damaged graph makes ONNX
        Runtime raise its own."""
        is_ours, reason = isinstance(error, GapgateError), reason_of(error)
        refusal = f"{resolved} is refused: {reason}"
        # Both texts: the named version may be refused, and then the one that was followed last as well.
        self.refused = f"{self.refused}; {refusal}" if self.refused else refusal
        extra = _fields("model_refused", resolved) | {"reason": reason}
        _LOG.error("%s", refusal, extra=extra, exc_info=None if is_ours else error)

    def _note(self, problem: str, level: int = logging.WARNING, *, away: bool = False, trace: bool = False) -> None:
        """Keep `problem` and log it if it is new; log an outage of the registry (`away`) at its begin and its end."""
        uri = str(self._registry.uri)
        if self._is_away and not away:
            _LOG.info("the registry answers again", extra={"event": "registry_back", "uri": uri})
        # The words of an outage may change at each poll (refused, timed out); only its first poll is logged.
        if problem and problem != self.problem and not (away and self._is_away):
            extra = {"event": "registry_away" if away else "registry_problem", "uri": uri}
            _LOG.log(level, "%s: %s", uri, problem, extra=extra, exc_info=trace)
        self._is_away, self.problem = away, problem


def reason_of(error: Exception) -> str:
    """Return an error in one line; one of another library has its type before it."""
    is_ours = isinstance(error, GapgateError)
    return " ".join((str(error) if is_ours else f"{type(error).__name__}: {error}").split())


def _fields(event: str, resolved: Resolved) -> dict[str, str]:
    return {
        "event": event,
        "model": resolved.name,
        "version": resolved.version,
        "package": resolved.package_digest,
        "run_id": resolved.run_id,
    }
