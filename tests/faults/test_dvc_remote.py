"""A DVC remote that is away, slow, refuses, or gives other bytes than were pinned: nothing wrong is taken in, no file
of the user goes, and the next try with a whole remote gives exactly what is pinned."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from components.platform.data import dvc_data, dvc_hashes, dvc_workspace
from gapgate.errors import DataError, RemoteAwayError
from gapgate.files import whole_folder
from tests.components.platform.repositories import begin, draw, git, push
from tests.faults.settings import IS_ALL, SEED

# DVC leaves its HTTP sessions open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CODES = {"drop": 75, "fail": 75, "deny": 2, "missing": 2, "truncate": None, "swap": 2, "slow": 0}
"""What happens to an object → the exit code; None: that of a connection that broke, or of other content."""
_STATUSES = {"fail": 500, "deny": 403, "missing": 404}


@dataclass
class Remote:
    """A DVC remote on a real HTTP server."""

    folder: Path
    url: str = ""
    fault: str = ""
    disturbed: str = ""
    """Path of the object that is disturbed; of every one where it is empty."""

    def objects(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())


class Handler(SimpleHTTPRequestHandler):
    """Hands out the objects of a remote, disturbed."""

    def __init__(self, remote: Remote, *arguments: Any) -> None:
        self.remote = remote
        super().__init__(*arguments, directory=str(remote.folder))

    def do_GET(self) -> None:
        fault = self.remote.fault if self.remote.disturbed in ("", self.path.lstrip("/")) else ""
        if fault == "drop":
            return
        if fault in _STATUSES:
            self.send_error(_STATUSES[fault])
            return
        if fault == "slow":
            time.sleep(0.5)
        place = Path(self.translate_path(self.path))
        if fault not in ("truncate", "swap") or self.command == "HEAD" or not place.is_file():
            getattr(super(), f"do_{self.command}")()
            return
        content = place.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault == "truncate" else content[::-1])

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Remote, str]]:
    """A repository without its data, its remote, and the hash that is pinned."""
    folder = tmp_path_factory.mktemp("dvc")
    root = begin(folder / "repository")
    pin = dvc_workspace.add(str(draw(folder / "photos")), root)
    push(root, folder / "remote")
    remote = Remote(folder / "remote")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, remote)) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        remote.url = f"http://127.0.0.1:{server.server_address[1]}"
        config = root / ".dvc" / "config"
        config.write_text(config.read_text().replace(str(remote.folder), remote.url))
        git("add", "-A", cwd=root)
        git("commit", "-qm", "remote", cwd=root)
        yield root, remote, pin.hash
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("fault", CODES if IS_ALL else ["swap", "truncate"])
def test_nothing_but_what_is_pinned_is_taken_from_a_remote(
    fault: str, pinned: tuple[Path, Remote, str], tmp_path: Path, record_property: Any
) -> None:
    root, remote, wanted = pinned
    (root / "mine.txt").write_text("mine")
    drawn = random.Random(f"{SEED} {fault}")
    objects = remote.objects()
    for number, place in enumerate(["", *objects] if IS_ALL else [drawn.choice(objects)]):
        for name in ("data", ".dvc/cache"):
            shutil.rmtree(root / name, ignore_errors=True)
        remote.fault, remote.disturbed = fault, place
        where = f"{fault} {place or 'every object'}, GAPGATE_FAULTS_SEED={SEED}"
        target = tmp_path / f"{number}"
        takes = (partial(dvc_workspace.restore, root), partial(_ingested, root, target))
        for take in takes:
            record_property("faults", f"DVC remote: {fault}")
            _check(take, CODES[fault], where)
            assert not (root / "data").exists() or dvc_hashes.dvc_hash(root / "data") == wanted, where
            assert not target.exists() or dvc_hashes.dvc_hash(target) == wanted, where
        remote.fault = ""
        if not target.exists():
            _ingested(root, target)
        assert dvc_hashes.dvc_hash(target) == wanted, where
        assert dvc_workspace.restore(root).hash == wanted == dvc_hashes.dvc_hash(root / "data"), where
        left = {path.name for path in root.iterdir() if not path.name.startswith((".dvc", ".git"))}
        assert left == {"data", "data.dvc", "mine.txt"}, where


def _ingested(root: Path, target: Path) -> None:
    """Take the data as ingest does."""
    with whole_folder(target) as folder:
        dvc_data.fetch(str(root), "", "data", folder)


def _check(take: Any, code: int | None, where: str) -> None:
    if code == 0:
        take()
        return
    with pytest.raises(DataError) as caught:
        take()
    assert "\n" not in str(caught.value), where
    print(where, caught.value.exit_code, caught.value)
    assert caught.value.exit_code in ((2, 75) if code is None else (code,)), (where, str(caught.value))
    assert isinstance(caught.value, RemoteAwayError) is (caught.value.exit_code == 75)
