"""Faults of git and of DVC remotes, from real servers: each has its own words, and only some may pass by themselves."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

from components.platform.data import dvc_data, dvc_workspace
from gapgate.errors import DataError, RemoteAwayError

# DVC leaves its HTTP sessions open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CLOSED = "http://127.0.0.1:9"
UNKNOWN = "http://no-such-host.invalid"  # RFC 6761: no name below `invalid` exists
S3_ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>no</Message></Error>'


class Refusing(BaseHTTPRequestHandler):
    """Answers every request with one status, and with S3's document of an error code."""

    def __init__(self, status: int, code: str, *arguments: Any) -> None:
        self.status, self.body = status, S3_ERROR.format(code).encode()
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self.send_response(self.status)
        if self.status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="images"')
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        if self.command == "GET":  # the answer to HEAD has no body, as S3's
            self.wfile.write(self.body)

    do_HEAD = do_GET  # noqa: N815 (the name that http.server looks for)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class Dumb(SimpleHTTPRequestHandler):
    """Hands out the files of a folder."""

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server with a handler; returns its address."""
    servers = []

    def start(handler: Callable[..., Any]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that pins a folder of which neither cache nor workspace has the files."""
    root = tmp_path_factory.mktemp("pins")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "-q"], cwd=root, check=True)
    (root / "data" / "cats").mkdir(parents=True)
    (root / "data" / "cats" / "0.png").write_text("a cat")
    with Repo.init(str(root)) as repo:
        repo.add(str(root / "data"))
    shutil.rmtree(root / "data")
    shutil.rmtree(root / ".dvc" / "cache")
    subprocess.run([*git, "add", "-A"], cwd=root, check=True)
    subprocess.run([*git, "commit", "-qm", "pin"], cwd=root, check=True)
    subprocess.run([*git, "update-server-info"], cwd=root, check=True)
    return root


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keys for S3 in the environment, and nowhere else."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def fault_of(repository: object, tmp_path: Path) -> tuple[str, int]:
    """Message and exit code."""
    with pytest.raises(DataError) as caught:
        dvc_data.fetch(str(repository), "", "data", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, RemoteAwayError) is caught.value.is_passing
    return str(caught.value), caught.value.exit_code


def remote_fault(repository: Path, tmp_path: Path, url: str, endpoint: str = "") -> tuple[str, int]:
    """The fault of a repository whose DVC remote is at `url`."""
    lines = ["[core]", "    remote = store", "['remote \"store\"']", f"    url = {url}"]
    lines += [f"    endpointurl = {endpoint}"] if endpoint else []
    (repository / ".dvc" / "config").write_text("\n".join(lines) + "\n")
    return fault_of(repository, tmp_path)


@pytest.mark.parametrize(
    ("status", "said", "code"),
    [
        (401, "it asks for a user and a password, or refuses those given; set GIT_USERNAME and GIT_PASSWORD", 2),
        (403, "the user may not read it (403); give GIT_USERNAME read access, or name another user", 2),
        (404, "there is no git repository; check the address", 2),
        (503, "the server fails (503); try again later", 75),
    ],
)
def test_what_a_git_server_refuses_is_told_with_its_remedy(
    serve: Serve, tmp_path: Path, status: int, said: str, code: int
) -> None:
    address = f"{serve(partial(Refusing, status, ''))}/images.git"
    assert fault_of(address, tmp_path) == (f"git cannot get data at HEAD of {address}: {said}", code)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (f"{CLOSED}/images.git", "the connection is refused; check host and port, and that the server runs"),
        ("git://127.0.0.1:9/images.git", "the connection is refused; check host and port, and that the server runs"),
        (f"{UNKNOWN}/images.git", "the host is unknown ("),
    ],
)
def test_a_git_server_that_does_not_answer_may_come_back(tmp_path: Path, address: str, said: str) -> None:
    message, code = fault_of(address, tmp_path)
    assert message.startswith(f"git cannot get data at HEAD of {address}: {said}")
    assert code == 75


def test_a_server_of_files_is_not_taken_for_one_of_git(serve: Serve, repository: Path, tmp_path: Path) -> None:
    message, code = fault_of(f"{serve(partial(Dumb, directory=str(repository)))}/.git", tmp_path)
    assert "does not speak git's protocol (dumb HTTP); serve the repository by `git http-backend`" in message
    assert code == 2


@pytest.mark.parametrize(
    ("status", "said", "code"),
    [
        (401, "it asks for a user and a password, or refuses those given; set them with `dvc remote modify`", 2),
        (403, "it refuses to give the files (403); ask for read access", 2),
        (404, "the DVC remote does not have the files of ", 2),
        (500, "the server fails (500); try again later", 75),
    ],
)
def test_what_a_dvc_remote_refuses_is_told_with_its_remedy(
    serve: Serve, repository: Path, tmp_path: Path, status: int, said: str, code: int
) -> None:
    message, found = remote_fault(repository, tmp_path, serve(partial(Refusing, status, "")))
    assert said in message
    assert found == code


@pytest.mark.parametrize(("url", "said"), [(CLOSED, "the connection is refused"), (UNKNOWN, "the host is unknown")])
def test_a_dvc_remote_that_does_not_answer_may_come_back(repository: Path, tmp_path: Path, url: str, said: str) -> None:
    message, code = remote_fault(repository, tmp_path, url)
    assert message.startswith("the DVC remote does not give data at HEAD")
    assert said in message
    assert code == 75


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "AccessDenied", "the S3 keys may not read there; grant them s3:GetObject and s3:ListBucket"),
        (403, "InvalidAccessKeyId", "S3 does not know the key; check AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "the secret of the S3 key is wrong; check AWS_SECRET_ACCESS_KEY"),
        (400, "ExpiredToken", "the S3 keys have expired; get new ones, AWS_SESSION_TOKEN with them"),
        (404, "NoSuchBucket", "there is no such S3 bucket; check the url in .dvc/config"),
    ],
)
def test_each_fault_of_s3_keys_is_told_apart(
    serve: Serve, repository: Path, tmp_path: Path, status: int, code: str, said: str
) -> None:
    """The server answers as S3 does: with the code in the body, and without a body to HEAD, which DVC asks first."""
    message, found = remote_fault(repository, tmp_path, "s3://images/pins", serve(partial(Refusing, status, code)))
    assert message.endswith(f": {said}")
    assert found == 2


def test_s3_without_keys_is_told(
    keys: None, serve: Serve, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    server = serve(partial(Refusing, 403, "AccessDenied"))
    message, code = remote_fault(repository, tmp_path, "s3://images/pins", server)
    assert message.endswith("there are no S3 keys; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    assert code == 2


@pytest.mark.usefixtures("keys")
def test_s3_that_is_overloaded_may_come_back(serve: Serve, repository: Path, tmp_path: Path) -> None:
    server = serve(partial(Refusing, 503, "ServiceUnavailable"))
    message, code = remote_fault(repository, tmp_path, "s3://images/pins", server)
    assert message.endswith("the server fails (503); try again later")
    assert code == 75


def test_a_pull_that_is_refused_is_told_too(serve: Serve, repository: Path) -> None:
    """DVC keeps no cause of it."""
    url = serve(partial(Refusing, 401, ""))
    (repository / ".dvc" / "config").write_text(f"[core]\n    remote = s\n['remote \"s\"']\n    url = {url}\n")
    with pytest.raises(DataError, match="it asks for a user and a password"):
        dvc_workspace.restore(repository)
