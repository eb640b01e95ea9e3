"""Following a model in a registry while it is served: what the registry names is fetched, loaded beside the model that
answers, and put in its place; what may not be served is refused, and the old model goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from gapgate.errors import GapgateError, RegistryError, StorageError, TrackingError
from serving.registry import MlflowRegistry, ModelUri, Resolved

_LOG = logging.getLogger("gapgate.serving")
_STOP_TIMEOUT_S = 1.0
_PASSING = (RegistryError, StorageError, TrackingError, OSError, MemoryError)
"""Errors that a later try may not meet again: nothing was found wrong with the version."""
Model = TypeVar("Model")


class Watcher(Generic[Model]):
    """A thread that polls a registry every `poll_s` seconds.

    `load` opens a package's folder, at whatever cost, and raises `GapgateError` to refuse it; `switch` makes the loaded
    model the one that answers; `current` is that one, or None. All three are called in the watcher's thread, or in the
    one that calls `serve_last`.
    """

    def __init__(
        self,
        registry: MlflowRegistry,
        uri: ModelUri,
        poll_s: float,
        load: Callable[[Path], Model],
        switch: Callable[[Model], None],
        current: Callable[[], Model | None],
    ) -> None:
        self._registry, self._uri, self._poll_s = registry, uri, poll_s
        self._load, self._switch, self._current = load, switch, current
        self.served: Resolved | None = None
        """The version that `switch` was given last."""
        self.refused = ""
        """Why the version that the registry names is not served; empty where it is."""
        self.problem = ""
        """Why the registry cannot be followed now: it is away, has no such model, or the package is still to come."""
        self._refused: Resolved | None = None
        self._unusable: Resolved | None = None
        self._hindrance = ""
        self._is_away = False
        self._folders: list[Path] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registry-watcher", daemon=True)

    def serve_last(self) -> None:
        """Serve what was followed last from the cache, without a word to the registry. Never raises.

        For a restart: call it before `start`, whose first poll can take as long as the registry lets it wait. A package
        that is no longer whole, or does not load, is not served; what the registry names is put in place of the rest.
        """
        self._serve_last(self._registry.cached)

    def start(self) -> None:
        """Begin to poll, at once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop polling, within about a second; a download that is under way ends with the process, and is not used."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_TIMEOUT_S)

    def poll_once(self) -> None:
        """Ask the registry, and serve what it names where that is something else. Never raises."""
        try:
            awaited = self._follow(self._registry.resolve(self._uri))
            self._note(awaited, logging.INFO)
        except TrackingError as error:
            self._note(str(error), away=True)
        except (RegistryError, StorageError) as error:
            self._note(str(error))
        except (OSError, MemoryError) as error:
            self._note(f"{_reason(error)}; it is tried again")
        except Exception as error:  # a thread that ended unseen would follow nothing for ever
            self._note(_reason(error), trace=True)
        if self._current() is None and not self._stopped.is_set():
            self._serve_last(self._registry.fetch)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.poll_once()
            self._stopped.wait(self._poll_s)

    def _follow(self, named: Resolved) -> str:
        """Serve or refuse what the registry names, if that is new; returns what it has to wait for, in words."""
        if named == self._refused:
            return ""
        self._refused, self.refused = None, ""
        if not named.is_package(self.served) and not named.awaited:
            try:
                self._put_in_place(named, self._registry.fetch)
                self._registry.follow(self._uri, named)
            except _PASSING:
                raise
            except Exception as error:
                self._refused = named
                self._refuse(named, error)
        return named.awaited

    def _serve_last(self, fetch: Callable[[Resolved], Path | None]) -> None:
        """Where nothing is served yet, as after a start: what was followed last, if it is still what it was."""
        last = self._registry.followed(self._uri)
        if last is None or last in (self._refused, self._unusable):
            return
        try:
            self._put_in_place(last, fetch)
        except (RegistryError, TrackingError):
            return  # `problem` says it already, and the next poll tries again
        except _PASSING as error:
            self._hinder(last, _reason(error))
        except Exception as error:
            self._unusable = last
            self._refuse(last, error)

    def _put_in_place(self, resolved: Resolved, fetch: Callable[[Resolved], Path | None]) -> None:
        try:
            if (folder := fetch(resolved)) is None:
                return
            model = self._load(folder)
            if self._stopped.is_set():
                return
            self._switch(model)
            # The model before may still be answering: what it maps stays in place until the next change.
            self._folders = [*self._folders[-1:], folder]
        finally:
            self._registry.keep(self._folders)
        self.served = resolved
        _LOG.info("%s is served", resolved, extra=_fields("model_switched", resolved))

    def _hinder(self, resolved: Resolved, reason: str) -> None:
        """Log once why a version that nothing is wrong with cannot be served now."""
        if reason != self._hindrance:
            extra = _fields("model_hindered", resolved) | {"reason": reason}
            _LOG.warning("%s is not served yet: %s; it is tried again", resolved, reason, extra=extra)
        self._hindrance = reason

    def _refuse(self, resolved: Resolved, error: Exception) -> None:
        """Log it once, with a traceback where the error is none of ours: a damaged graph makes ONNX Runtime raise its
        own."""
        is_ours, reason = isinstance(error, GapgateError), _reason(error)
        refusal = f"{resolved} is refused: {reason}"
        self.refused = f"{self.refused}; {refusal}" if self.refused else refusal
        extra = _fields("model_refused", resolved) | {"reason": reason}
        _LOG.error("%s", refusal, extra=extra, exc_info=None if is_ours else error)

    def _note(self, problem: str, level: int = logging.WARNING, *, away: bool = False, trace: bool = False) -> None:
        """Keep `problem`; log it when it is new, and an absence when it begins and when it ends."""
        if self._is_away and not away:
            _LOG.info("the registry answers again", extra={"event": "registry_back", "uri": str(self._uri)})
        if problem and problem != self.problem and not (away and self._is_away):
            extra = {"event": "registry_away" if away else "registry_problem", "uri": str(self._uri)}
            _LOG.log(level, "%s: %s", self._uri, problem, extra=extra, exc_info=trace)
        self._is_away, self.problem = away, problem


def _reason(error: Exception) -> str:
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
