"""The server: `python -m serving [--host H --port P | --uds PATH | --fd N] [--package FOLDER]`; all other options are
environment variables (`serving.options`).

A prefork server: this parent process imports the modules once, forks the workers, and forks a new one for each that
ends. It opens no model and starts no thread, so a fork of it is safe; a new worker is ready in 0.2 s.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import mmap
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

# One BLAS thread for each worker, as for ONNX Runtime: a server scales by workers. OpenBLAS reads the variable when
# numpy is imported, so it is set before the imports below.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from gapgate.errors import GapgateError
from serving.http.access import check_address, warn_of_proxies
from serving.listening import listen, listen_on_path
from serving.options import Options, unknown
from serving.telemetry import logs

logger = logging.getLogger("gapgate.serving")
PACKAGE = Path(__file__).parents[1] / "model"
"""The model inside the Bento that this source is part of."""
_RESTART_S = 1.0
"""Pause before the next worker if one lived shorter than this: a worker that fails at start must not be a busy loop."""
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(argv: list[str] | None = None) -> int:
    """Run the server until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m serving", description="Serve a packaged model.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--uds", type=Path, help="a Unix socket to listen on instead")
    parser.add_argument("--fd", type=int, help="a listening socket to take instead")
    parser.add_argument("--package", type=Path, default=PACKAGE, help="folder of the model's package")
    parser.add_argument(
        "--end-with-parent", action="store_true", help="end when the process that started this one ends"
    )
    arguments = parser.parse_args(argv)
    if arguments.end_with_parent:
        # Before anything slow: a parent that ends during the imports of the workers is noticed too.
        _end_with_parent(os.getppid())
    _raise_open_files()
    try:
        options = Options.from_environment()
        logs.configure(options.log_format)
        listener = _listener(arguments, options)
        for problem in unknown():
            logger.warning("%s", problem)
        warn_of_proxies(options)
        with tempfile.TemporaryDirectory(prefix="gapgate-metrics-") as figures:
            return Workers(options, arguments.package, listener, figures).run()
    except GapgateError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _listener(arguments: argparse.Namespace, options: Options) -> socket.socket:
    """Open the socket that the arguments name.

    Raises:
        ServeError: it is not available, or open to other machines while no key is set.
    """
    if arguments.fd is not None:
        # `serving.run` opens the socket itself, so that it knows the port of `--port 0` before the server is ready.
        listener = socket.socket(fileno=arguments.fd)
        if listener.family != socket.AF_UNIX:
            check_address(listener.getsockname()[0], options)
        return listener
    if arguments.uds:
        return listen_on_path(arguments.uds, options.answers_all)
    check_address(arguments.host, options)
    return listen(arguments.host, arguments.port)


class Workers:
    """The worker processes: as many as the options say, kept up until a signal ends them.

    Raises:
        SettingsError: an option has a value that no worker could use.
    """

    def __init__(self, options: Options, package: Path, listener: socket.socket, figures: str) -> None:
        os.environ["PROMETHEUS_DISABLE_CREATED_SERIES"] = "true"  # both are read when prometheus_client is imported
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        if options.workers > 1:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = figures
        # Imported here, after the variables are set and before the fork: all workers share the pages of the modules.
        from serving import worker
        from serving.guard.memory import Memory
        from serving.model import models
        from serving.telemetry import metrics

        models.check(options)
        self._serve = worker.run
        self._memory = Memory()
        self._worker_ended = metrics.worker_ended
        self._options = options
        self._package = package
        self._listener = listener
        self._started: dict[int, tuple[int, float]] = {}
        """Process id of each worker → its number, from 0, and the time of its start."""
        self._ending = False
        # Anonymous and MAP_SHARED: forked workers see what this process writes, without a pipe or a lock.
        self._ends_whole = mmap.mmap(-1, 1)
        """One byte, 1 once the whole server ends: then no new worker follows one that ends."""

    def run(self) -> int:
        """Fork, wait, fork again; returns once every worker has ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal that closes, or a program that rotates logs
        # `_end` can run between any two lines from here on, so each loop looks at `_ending` again.
        while not self._ending and len(self._started) < self._options.workers:
            self._fork()
        while self._started:
            pid, status = os.wait()  # a signal does not end it (PEP 475): the handler runs, and it waits on
            started = self._started.pop(pid, None)
            if started is None:  # an orphan: process 1 of a container becomes the parent of all of them
                continue
            worker, begun = started
            lived_s = time.monotonic() - begun
            self._worker_ended(pid)
            self._memory.ended(worker)
            if self._ending:
                continue
            logger.error("worker %d ended with code %d; starting another", pid, os.waitstatus_to_exitcode(status))
            if lived_s < _RESTART_S:
                time.sleep(_RESTART_S)  # a signal in this time is handled at once; `_fork` then forks nothing
            self._fork()
        return 0

    def _fork(self) -> None:
        """Start a worker, unless the server is ending."""
        # `_end` tells the workers in the table; between the fork and the entry a signal would miss the new one.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        if self._ending:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            return
        parent, taken = os.getpid(), {worker for worker, _ in self._started.values()}
        self._memory.worker = min(set(range(self._options.workers)) - taken)
        if pid := os.fork():
            self._started[pid] = self._memory.worker, time.monotonic()
            # A signal that came since the block is delivered here, and `_end` finds the new worker in the table.
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            return
        code = 1
        try:
            # The handlers of the parent go before the mask opens: `_end` in a worker would signal its siblings. Until
            # uvicorn sets its own, SIGTERM ends the worker, which has no request yet.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            _end_with_parent(parent)
            self._serve(self._options, self._package, self._listener, lambda: self._ends_whole[0] == 1, self._memory)
            code = 0
        except BaseException:
            logger.exception("worker failed")
        finally:
            # Not `sys.exit`: that would unwind the stack of the parent too, whose `with` removes the metrics folder of
            # all workers. `_exit` flushes nothing, so the log is flushed first.
            logging.shutdown()
            os._exit(code)

    def _end(self, number: int, frame: FrameType | None) -> None:
        """Pass a signal on to the workers, which answer the requests they have and end."""
        self._ending = True
        # Before the signals: a worker reads it while it shuts down.
        self._ends_whole[0] = 1
        # The kernel accepts connections for as long as one process has the socket open. After the workers have closed
        # theirs, a connection would wait here for ever.
        self._listener.close()
        for pid in list(self._started):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def _end_with_parent(parent: int) -> None:
    """Ask Linux for SIGTERM when the parent process ends, by SIGKILL too; on other systems do nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        # prctl(2) tells of an end after the call only. If the parent ended before, init is the parent by now.
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)


def _raise_open_files() -> None:
    """Raise the limit of open files, and so of connections, to the hard limit; the soft one is often 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
