"""A PostgreSQL of the system's package, for one test module: its own folder, port, and a role without privileges."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gapgate.process.child_server import free_port

_PASSWORD = "p%40ss"
"""As an address has it: with a character that must be escaped."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server; `mlflow` owns the databases that `database` makes, and is no superuser."""

    binaries: Path
    port: int

    def database(self, name: str) -> str:
        """Make an empty database; returns its address."""
        self._psql("postgres", f"CREATE DATABASE {name} OWNER mlflow")
        return f"postgresql://mlflow:{_PASSWORD}@127.0.0.1:{self.port}/{name}"

    def query(self, address: str, statement: str) -> str:
        """What `psql` prints for a statement; as a superuser where `address` is only a database's name."""
        return self._psql(address, statement)

    def _psql(self, database: str, statement: str) -> str:
        address = (
            database if "://" in database else f"postgresql://postgres:{_PASSWORD}@127.0.0.1:{self.port}/{database}"
        )
        command = [str(self.binaries / "psql"), "-XAtq", "--set=ON_ERROR_STOP=1", f"--command={statement}", address]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.strip()


@contextmanager
def running() -> Iterator[Postgres]:
    """Start a server, and stop it at the end."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    initdb = found[-1] if found else shutil.which("initdb")
    if not initdb:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    binaries = Path(initdb).parent
    user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
    # Not pytest's own folder, which only its owner may enter.
    with tempfile.TemporaryDirectory(prefix="gapgate-postgres-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        password = folder / "password"
        password.write_text(_PASSWORD.replace("%40", "@"))
        if user:
            owner = pwd.getpwnam(user)
            for path in (folder, password):
                os.chown(path, owner.pw_uid, owner.pw_gid)

        def as_owner(*command: str | Path) -> None:
            with (folder / "setup.log").open("ab") as log:
                subprocess.run(command, check=True, timeout=120, cwd=folder, user=user, stdout=log, stderr=log)

        as_owner(
            binaries / "initdb", "--no-sync", "--username=postgres", "--auth=scram-sha-256", f"--pwfile={password}",
            "--encoding=UTF8", "--locale=C", "--pgdata", folder / "data",
        )  # fmt: skip
        port = free_port()
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
        control = (binaries / "pg_ctl", "--wait", "--pgdata", folder / "data")
        as_owner(*control, "--log", folder / "server.log", "--options", options, "start")
        try:
            server = Postgres(binaries, port)
            server.query("postgres", f"CREATE ROLE mlflow LOGIN PASSWORD '{_PASSWORD.replace('%40', '@')}'")
            yield server
        finally:
            as_owner(*control, "--mode=immediate", "stop")
