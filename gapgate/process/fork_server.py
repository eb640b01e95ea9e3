"""A server that imports modules once and calls functions in forks of itself (on Linux alone).

A step of a run takes 0.2 to 3 s of processor time for its imports, and eight steps import much of the same. Python's
own fork server (`multiprocessing.forkserver`) belongs to one process; this one takes calls from any process of the same
user, since Kubeflow's runner starts a process for each step.

A call is one JSON line with the caller's three standard files beside it, and its answer one JSON line. The fork works
in the caller's folder and environment, writes to its files, and ends when the caller ends.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import secrets
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from gapgate.process.descendants import end_with

VARIABLE = "GAPGATE_FORK_SERVER"
"""Environment variable with the server's address, for `call`."""
_STANDARD_FILES = (0, 1, 2)
_CREDENTIALS = struct.Struct("3i")
"""The process, user and group at the other end of a socket, as Linux answers SO_PEERCRED."""


class CallError(Exception):
    """The call ended by an exception, whose traceback is on the caller's standard error, or its process was killed."""


@contextmanager
def running(modules: Sequence[str]) -> Iterator[None]:
    """Have a server while the block runs, which imports `modules` in this order; `VARIABLE` names it to children.

    A server that the environment names already is used. Where the system cannot have one, nothing happens.
    """
    if is_there() or not hasattr(os, "pidfd_open"):
        yield
        return
    name = f"gapgate-{secrets.token_hex(16)}"
    # It listens before the child runs, so an early call waits for it. Here it is closed again: otherwise a call to a
    # dead child would wait for ever instead of being refused.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(_address(name))
        listener.listen()
        command = [sys.executable, "-m", __name__, str(listener.fileno()), str(os.getpid()), *modules]
        process = subprocess.Popen(
            command,
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        process.kill()
        process.wait()


def _address(name: str) -> str:
    # Linux keeps a name that begins with zero without a file: nothing to remove, and no limit to the path of a folder.
    return f"\0{name}"


def is_there() -> bool:
    """True if the environment names a server."""
    return bool(os.environ.get(VARIABLE))


def call(function: str, arguments: Mapping[str, Any], needs: str) -> None:
    """Call `function`, as "module:name", with `arguments` (JSON) in a fork of the server that the environment names,
    once the server has imported the module `needs`.

    Raises:
        CallError: the function raised an exception, or its process was killed.
        OSError: there is no server any more; nothing was called.
    """
    request = {"function": function, "arguments": dict(arguments), "needs": needs}
    request |= {"folder": str(Path.cwd()), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(_address(os.environ[VARIABLE]))
        sys.stdout.flush()
        sys.stderr.flush()
        # Files need a byte to travel with (unix(7)). One of their own, so that the server takes them before it reads
        # the JSON.
        socket.send_fds(connection, [b"\n"], _STANDARD_FILES)
        connection.sendall(json.dumps(request).encode() + b"\n")
        answer = connection.makefile().readline()
    if not answer:
        raise CallError("its process was killed")
    if error := json.loads(answer)["error"]:
        raise CallError(error)


def serve(listener: socket.socket, parent: int, modules: Sequence[str]) -> None:
    """Import `modules`, and answer calls until the process `parent` ends."""
    # No thread here: a fork of a process with threads may inherit a lock that nobody opens.
    # Readable once the process has ended; a number alone could by then be that of another process.
    lives = os.pidfd_open(parent)
    interrupt = signal.getsignal(signal.SIGINT)
    # Ctrl-C reaches all processes of a terminal: the caller decides what it ends. Forks that have ended need no `wait`.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    waiting = list(modules)
    while True:
        ready, _, _ = select.select([listener.fileno(), lives], [], [], 0 if waiting else None)
        if lives in ready:
            return
        if ready:
            connection, _ = listener.accept()
            with connection:
                if call := _received(connection, waiting):
                    # What is imported is not searched for cycles in a fork: that would copy its pages.
                    gc.freeze()
                    if os.fork() == 0:
                        # As in any process: Ctrl-C ends it, and it can wait for its own children, which SIG_IGN
                        # prevents (wait(2)).
                        signal.signal(signal.SIGINT, interrupt)
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        listener.close()
                        _work(connection, *call)
                    # The fork has copies. Open here, a pipe of the caller would never come to its end.
                    for file in call[1]:
                        os.close(file)
        elif waiting:
            _import(waiting.pop(0))


def _import(name: str) -> None:
    with suppress(Exception):  # the call that needs the module meets the same error, and tells it
        importlib.import_module(name)


def _received(connection: socket.socket, waiting: list[str]) -> tuple[int, list[int], dict[str, Any]] | None:
    """Number and standard files of the calling process, and its request; None for another user's.

    Imports `waiting` up to the module that the call needs.
    """
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    caller, user, _ = _CREDENTIALS.unpack(credentials)
    if user != os.getuid():  # any user of the machine can find the address
        return None
    # The one byte that came with the files; the rest is the JSON.
    _, files, _, _ = socket.recv_fds(connection, 1, len(_STANDARD_FILES))
    request = json.loads(connection.makefile().readline())
    while request["needs"] in waiting:
        _import(waiting.pop(0))
    return caller, files, request


def _work(connection: socket.socket, caller: int, files: list[int], request: Mapping[str, Any]) -> NoReturn:
    """Make the call and answer; without the end of a Python program, whose handlers are the server's."""
    error = ""
    try:
        for target, file in zip(_STANDARD_FILES, files, strict=True):
            os.dup2(file, target)
            os.close(file)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        # tempfile keeps the first folder that it found, and TMPDIR may be another one now.
        tempfile.tempdir = None
        end_with(caller)
        module, _, name = request["function"].partition(":")
        getattr(importlib.import_module(module), name)(**request["arguments"])
    except BaseException as raised:
        traceback.print_exc()
        error = f"{type(raised).__name__}: {raised}"
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(json.dumps({"error": error}).encode() + b"\n")
    os._exit(0)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), sys.argv[3:])
