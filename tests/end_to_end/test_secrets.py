"""Passwords in the URLs of the tracking server and of the data's repository, and what a run leaves of them: nothing."""

import base64
import threading
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import numpy as np
import pytest
from dulwich.repo import Repo
from dulwich.server import DictBackend
from dulwich.web import make_wsgi_chain
from PIL import Image

from components.platform.data import dvc_workspace
from tests.components.platform.repositories import begin, push
from tests.end_to_end.workspace import QUICK
from tests.serving.registry_server import RegistryServer

USERS = {"repository": ("gituser-Xk3", "gitpass-Qz7"), "tracking": ("mluser-Lw9", "mlpass-Vb4")}
PLANTED = [
    each.encode()
    for user, password in USERS.values()
    for each in (user, password, base64.b64encode(f"{user}:{password}".encode()).decode())
]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, *arguments):
        pass


@contextmanager
def git_server(root):
    """The git repository at `root` over HTTP, for the one user who may read it; yields its address."""
    serve = make_wsgi_chain(DictBackend({"/images.git": Repo(str(root))}))
    allowed = "Basic " + base64.b64encode(":".join(USERS["repository"]).encode()).decode()

    def answer(environment, start_response):
        if environment.get("HTTP_AUTHORIZATION") != allowed:
            start_response("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="git"'), ("Content-Length", "0")])
            return [b""]
        # With its length, without which libgit2 takes an answer for cut off.
        written, head = [], []
        returned = serve(environment, lambda *found: [head.extend(found), written.append][1])
        body = b"".join(returned)
        body = b"".join(written) + body
        start_response(head[0], [*head[1], ("Content-Length", str(len(body)))])
        return [body]

    with make_server("127.0.0.1", 0, answer, server_class=_Server, handler_class=_Silent) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/images.git"
        finally:
            server.shutdown()
            thread.join()


def with_user(url, whose):
    return url.replace("://", "://{}:{}@".format(*USERS[whose]))


@pytest.fixture
def repository(tmp_path):
    """The address of a git repository that pins two classes of images; DVC's remote is a folder."""
    draw = np.random.default_rng(0)
    for name, value in (("dark", 0), ("light", 160)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(40):
            pixels = draw.integers(value, value + 90, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    root = begin(tmp_path / "repository")
    dvc_workspace.add(str(tmp_path / "images"), root)
    push(root, tmp_path / "remote")
    with git_server(root) as address:
        yield address


def test_a_password_in_a_url_works_and_is_in_nothing_that_a_run_leaves(workspace, repository, empty_store, tmp_path):
    server = RegistryServer(tmp_path)
    (tmp_path / "server.db").write_bytes(empty_store.read_bytes())
    (tmp_path / "tmp").mkdir()
    server.start()
    settings = ("--set", f"data.repository={with_user(repository, 'repository')}", "--set", "train.epochs=1")
    environment = {"MLFLOW_TRACKING_URI": with_user(server.url, "tracking"), "TMPDIR": str(tmp_path / "tmp")}
    try:
        done = workspace.gapgate("run", *QUICK, *settings, **environment)
        wrong = workspace.gapgate("step", "ingest", *settings, "--set", "data.revision=nowhere", **environment)
    finally:
        server.stop()
    assert done.returncode in (0, 3), done.stdout + done.stderr
    assert wrong.returncode == 2
    said = done.stdout + done.stderr + wrong.stdout + wrong.stderr
    assert urlsplit(repository).netloc in said
    left = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {"settings.json", "log.txt", "result.json", "ingest.jsonl", "receipt.json", "server.db"} <= {
        path.name for path in left
    }
    found = {str(path.relative_to(tmp_path)) for path in left for each in PLANTED if each in path.read_bytes()}
    assert not found
    assert not [each for each in PLANTED if each in said.encode()]
