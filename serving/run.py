"""Server of a `.bento` archive as a child process: unpack, start, wait until it is ready, stop all of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gapgate.errors import ServeError
from gapgate.evidence.sealed.archive import unpack
from gapgate.process import child_server
from serving.http.access import check_address
from serving.listening import listen, listen_on_path
from serving.options import Options
from serving.telemetry.privacy import QUIET


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; as a context manager it stops at the end."""

    process: subprocess.Popen[bytes]
    url: str
    """Address of the server, `http://host:port`."""
    log: Path | child_server.Relay
    """File that gets the output of the server, or what passes it on."""
    uds: Path | None = None
    """Unix socket on which it listens, instead of a port."""

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Return once `/readyz` answers 200.

        Raises:
            ServeError: the server ended, refuses its model, or is not ready after `timeout_s` seconds; its text gives
                the reason.
        """
        child_server.wait(self.process, self.log, "the server", self._problem, timeout_s)

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the server and every process that it started: SIGTERM, and SIGKILL after `timeout_s` seconds."""
        child_server.stop(self.process, timeout_s)
        if isinstance(self.log, child_server.Relay):
            self.log.finish()
        if self.uds:
            self.uds.unlink(missing_ok=True)

    def _problem(self) -> child_server.Problem | None:
        """Return why the server is not ready; None once it is. An error ends the wait, a text does not."""
        try:
            child_server.get(f"{self.url}/readyz", self.uds)
        except urllib.error.HTTPError as answer:
            with answer, suppress(ValueError, KeyError, TypeError):
                error = json.load(answer)["error"]
                refused = error["code"] == "refused"
                return ServeError(f"the server refuses the model: {error['message']}") if refused else error["message"]
            return f"/readyz answers {answer.code}"
        except OSError:
            return child_server.last_line(self.log)
        return None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve(
    bento_path: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    uds: Path | None = None,
    work_dir: Path,
    environment: Mapping[str, str] | None = None,
    relay: child_server.Relay | None = None,
) -> Server:
    """Start the server of a `.bento` archive; port 0 takes a free port, and `uds` a Unix socket instead.

    `work_dir` gets the unpacked Bento, and the log unless there is a `relay`; each server needs a folder of its own.
    `environment` has further options (see `serving.options`). The server is in a process group of its own: Ctrl-C in a
    terminal does not reach it. `Server.stop` ends all its processes, and so does the end of this process.

    Raises:
        ArtifactError: the archive is missing or is no Bento.
        ServeError: the address is not available, or is open to other machines while no key is set.
        SettingsError: an option has an invalid value.
    """
    variables = os.environ | dict(environment or {})
    # Before the work of unpacking; the server checks the same again.
    options = Options.from_environment(variables)
    if uds is None:
        check_address(host, options)
    source = unpack(bento_path, work_dir / "bento") / "src"
    log = relay or work_dir / "server.log"
    # The socket is opened here and inherited: a port that is taken is an error at once, and with port 0 the address is
    # known. This process closes its own copy; connections wait in the queue of the socket until the server accepts.
    opened = listen_on_path(uds, options.answers_all) if uds else listen(host, port)
    with opened as listener:
        process = child_server.start(
            [sys.executable, "-m", "serving", "--fd", str(listener.fileno()), "--end-with-parent"],
            log,
            cwd=source,
            # Without what would keep the server from running the source inside the Bento.
            env={name: variables[name] for name in variables.keys() - {"PYTHONPATH", "PYTHONSAFEPATH"}} | QUIET,
            pass_fds=[listener.fileno()],
        )
        bound = f"{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    return Server(process, "http://localhost" if uds else f"http://{bound}", log, uds)
