"""The workspace's own tracking store: MLflow's SQLite file, and the folder of artifacts beside it.

MLflow writes the absolute place of each artifact into the file. So a workspace that was moved or copied would read from
its old place, and write there; the places in the file follow the workspace instead.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from components.platform.workspace import artifacts_dir, home, local_store
from gapgate.errors import StorageError, storage_errors
from gapgate.files import whole_file

_ROOT = re.compile(r"(file://.*/mlartifacts)(/\d+)?")
"""Place of an experiment's artifacts: ours, or with its number, as MLflow makes it."""
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
"""Tables and columns with places of artifacts (MLflow 3.17)."""
_TIMEOUT_S = 30.0
_MAKING_BYTES = 8_000_000
"""More than the database takes while it is made: 1.3 MB and its journal (MLflow 3.17)."""


def open_local_store() -> None:
    """Make the store if there is none, and let the places in it follow the workspace.

    Raises:
        StorageError: it cannot be written, or is damaged.
    """
    if not local_store().exists():
        _make()
    try:
        _follow()
    except sqlite3.Error as error:
        raise StorageError(
            f"cannot use {local_store()} ({error}); check its owner and its disk, or restore it"
        ) from error


def _make() -> None:
    """Make the database; it appears under its name only when whole, also when two runs begin at once or one is killed.
    MLflow takes seconds to make it and cannot open one that is half made."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    home().mkdir(parents=True, exist_ok=True)
    with FileLock(home() / "mlflow.lock"):
        if local_store().exists():
            return
        with whole_file(local_store()) as fresh:
            fresh.unlink(missing_ok=True)  # of a process that was killed and had the same number
            free_bytes = shutil.disk_usage(home()).free
            with storage_errors(home()):
                try:
                    SqlAlchemyStore(f"sqlite:///{fresh}", artifacts_dir().as_uri())
                except Exception as error:
                    # MLflow tries again over what its first try left, and reports that the tables exist.
                    if free_bytes > _MAKING_BYTES:
                        raise
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(local_store())) from error


def _follow() -> None:
    """Replace the former place of the workspace in the database by its present one, in one transaction."""
    now = artifacts_dir().as_uri()
    with closing(sqlite3.connect(local_store(), timeout=_TIMEOUT_S)) as store, store:
        places = [str(place) for (place,) in store.execute("SELECT artifact_location FROM experiments")]
        roots = {match[1] for place in places if (match := _ROOT.fullmatch(place))}
        for former in roots - {now}:
            if _is_same_folder(former):  # another name of it, by a link
                continue
            for table, column in _PLACES:
                # By `substr` and not LIKE, to which _ and % in a folder's name stand for any character.
                store.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                    f" WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (now, len(former) + 1, former, len(former) + 1, f"{former}/"),
                )


def _is_same_folder(uri: str) -> bool:
    place = Path(unquote(urlsplit(uri).path))
    return place.exists() and artifacts_dir().exists() and place.samefile(artifacts_dir())
