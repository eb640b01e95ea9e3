"""The server: `python -m serving [--host H --port P | --fd N] [--package FOLDER]`; everything else by environment.

This process only keeps the workers: it imports what they need once, forks them, and forks a new one for each that
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

# One thread a worker for BLAS, as for ONNX Runtime: workers scale, not threads. Read when numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from gapgate.errors import GapgateError
from serving import logs
from serving.access import check_address
from serving.listening import listen
from serving.options import Options

logger = logging.getLogger("gapgate.serving")
PACKAGE = Path(__file__).parents[1] / "model"
"""The model inside the Bento that this source is part of."""
_RESTART_S = 1.0
"""A worker that lives shorter than this is followed by the next one only after this time."""
_PR_SET_PDEATHSIG = 1


def main(argv: list[str] | None = None) -> int:
    """Run the server until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m serving", description="Serve a packaged model.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--fd", type=int, help="a listening socket to take instead")
    parser.add_argument("--package", type=Path, default=PACKAGE, help="folder of the model's package")
    parser.add_argument(
        "--end-with-parent", action="store_true", help="end when the process that started this one ends"
    )
    arguments = parser.parse_args(argv)
    if arguments.end_with_parent:
        _end_with_parent(os.getppid())
    _raise_open_files()
    try:
        options = Options.from_environment()
        logs.configure(options.log_format)
        if arguments.fd is None:
            check_address(arguments.host, options)
            listener = listen(arguments.host, arguments.port)
        else:
            listener = socket.socket(fileno=arguments.fd)
            check_address(listener.getsockname()[0], options)
        with tempfile.TemporaryDirectory(prefix="gapgate-metrics-") as figures:
            return Workers(options, arguments.package, listener, figures).run()
    except GapgateError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


class Workers:
    """The worker processes, as many as the options say, until a signal ends them.

    Raises:
        SettingsError: an option that no worker could use.
    """

    def __init__(self, options: Options, package: Path, listener: socket.socket, figures: str) -> None:
        os.environ["PROMETHEUS_DISABLE_CREATED_SERIES"] = "true"  # both are read when prometheus_client is imported
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        if options.workers > 1:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = figures
        from serving import metrics, models, worker

        models.check(options)
        self._serve = worker.run
        self._worker_ended = metrics.worker_ended
        self._options = options
        self._package = package
        self._listener = listener
        self._started: dict[int, float] = {}
        self._ending = False
        self._ends_whole = mmap.mmap(-1, 1)  # shared with the workers
        """1 where no worker follows one that ends."""

    def run(self) -> int:
        """Fork, wait, fork again; returns once every worker has ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        while not self._ending and len(self._started) < self._options.workers:
            self._fork()
        while self._started:
            pid, status = os.wait()
            started = self._started.pop(pid, None)
            if started is None:  # an orphan that came to us as process 1 of a container
                continue
            lived_s = time.monotonic() - started
            self._worker_ended(pid)
            if self._ending:
                continue
            logger.error("worker %d ended with code %d; starting another", pid, os.waitstatus_to_exitcode(status))
            if lived_s < _RESTART_S:
                time.sleep(_RESTART_S)
            self._fork()
        return 0

    def _fork(self) -> None:
        # A signal between the fork and the entry in the table would miss the new worker.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        if self._ending:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            return
        parent = os.getpid()
        if pid := os.fork():
            self._started[pid] = time.monotonic()
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            return
        code = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            _end_with_parent(parent)
            self._serve(self._options, self._package, self._listener, lambda: self._ends_whole[0] == 1)
            code = 0
        except BaseException:
            logger.exception("worker failed")
        finally:
            logging.shutdown()
            os._exit(code)

    def _end(self, number: int, frame: FrameType | None) -> None:
        """Pass the signal on: the workers answer what they have and end."""
        self._ending = True
        self._ends_whole[0] = 1
        self._listener.close()  # once the workers have closed theirs, nobody may wait here
        for pid in list(self._started):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def _end_with_parent(parent: int) -> None:
    """Ask Linux for SIGTERM when the parent process ends, however it ends; other systems go without."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before we could ask
            os.kill(os.getpid(), signal.SIGTERM)


def _raise_open_files() -> None:
    """As many connections as the system lets this process have; shells often start it with 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
