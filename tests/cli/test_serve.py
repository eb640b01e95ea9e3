"""`gapgate serve`: from the champion's Bento, and following the registry."""

import signal
import subprocess
import sys
import threading
import urllib.request

import httpx
import psutil
import pytest

from tests.end_to_end.workspace import ROOT, Workspace
from tests.serving.packaged import picture
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, empty_store):
    """With two registered versions."""
    workspace = Workspace(tmp_path_factory.mktemp("workspace")).with_store(empty_store)
    command = [sys.executable, "-m", "tests.cli.registered"]
    made = subprocess.run(command, cwd=ROOT, env=workspace.environment(), capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return workspace


class Serving:
    """A running `gapgate serve` that is ready: its address, what it printed, and every process of it."""

    def __init__(self, workspace, *arguments, **extra):
        self.process = workspace.start("serve", *arguments, "--port", 0, **extra)
        self.log = []
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr))
        self._reader.start()
        self.printed = []
        while not self.printed or "try it" not in self.printed[-1]:
            line = self.process.stdout.readline()
            assert line, (self.process.wait(60), self.log)
            self.printed.append(line.rstrip("\n"))
        self.url = self.printed[0].split(" at ")[1].split()[0]
        root = psutil.Process(self.process.pid)
        self.family = [root, *root.children(recursive=True)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.family:
            if process.is_running():
                process.kill()
        self.process.wait(60)
        self._reader.join(60)
        self.process.stdout.close()
        self.process.stderr.close()

    def end(self, number):
        self.process.send_signal(number)
        code = self.process.wait(60)
        assert not psutil.wait_procs(self.family, timeout=60)[1]
        return code

    def version(self):
        image = {"image": ("a.png", picture(16, 16))}
        return httpx.post(f"{self.url}/v1/predict", files=image).raise_for_status().json()["model"]["version"]


def test_without_arguments_it_serves_the_champion_and_says_where_until_ctrl_c(workspace):
    with Serving(workspace, "--workers", 2) as serving:
        url = serving.url
        assert serving.printed == [
            f"serving model.bento at {url}  (Ctrl-C stops it)",
            f"page:    {url}/",
            f"docs:    {url}/docs",
            f"try it:  curl -F image=@IMAGE.png {url}/v1/predict",
        ]
        for path in ("/", "/docs"):
            with urllib.request.urlopen(url + path) as answer:
                assert answer.headers["Content-Type"].startswith("text/html")
        assert serving.version() == "1"
        assert len(serving.family) == 4  # this command, the server and its two workers
        assert serving.end(signal.SIGINT) == 130


def test_a_receipt_leads_to_the_tracking_server_of_who_serves_for_this_machine_and_shows_no_password(workspace):
    bento = workspace.one("r1/artifacts/*/package/bento/model.bento")
    with Serving(workspace, bento, MLFLOW_TRACKING_URI="http://ana:secret@127.0.0.1:9/mlflow/") as serving:
        image = {"image": ("a.png", picture(16, 16))}
        digest = httpx.post(f"{serving.url}/v1/predict", files=image).raise_for_status().json()["receipt"]
        answer = httpx.get(f"{serving.url}/v1/receipts/{digest}").raise_for_status()
        run = answer.json()["receipt"]["tracking_run"]
        assert answer.json()["run_url"] == f"http://127.0.0.1:9/mlflow/#/runs/{run}"
        assert "secret" not in answer.text


def test_from_the_registry_it_follows_a_promotion_and_sigterm_ends_it_whole(workspace):
    with Serving(workspace, "--model", "models:/gapgate@champion", GAPGATE_MODEL_POLL_S="0.2") as serving:
        assert serving.printed[0].startswith("serving models:/gapgate@champion at http://127.0.0.1:")
        assert serving.version() == "1"
        try:
            promoted = workspace.gapgate("promote", "2")
            assert promoted.returncode == 0, promoted.stderr
            wait_for(lambda: serving.version() == "2")
            wait_for(lambda: any("gapgate version 2 is served" in line for line in serving.log))
        finally:
            assert workspace.gapgate("promote", "1").returncode == 0
        assert any("mlflow" in " ".join(process.cmdline()) for process in serving.family)
        assert serving.end(signal.SIGTERM) == 0


def test_a_version_is_served_by_its_number_and_nothing_outlives_a_kill(workspace, tmp_path):
    with Serving(workspace, "models:/gapgate/2", TMPDIR=str(tmp_path)) as serving:
        assert serving.version() == "2"
        assert serving.end(signal.SIGKILL) == -signal.SIGKILL


def test_a_terminal_that_closes_ends_it_whole_and_no_log_is_kept(workspace, tmp_path):
    with Serving(workspace, TMPDIR=str(tmp_path), GAPGATE_ACCESS_LOG="true") as serving:
        assert serving.version() == "1"
        wait_for(lambda: any("POST /v1/predict" in line for line in serving.log))
        assert not list(tmp_path.rglob("*.log"))
        assert serving.end(signal.SIGHUP) == 0
    assert not list(tmp_path.iterdir())


def test_a_server_that_ends_by_itself_is_said(workspace, tmp_path):
    with Serving(workspace, TMPDIR=str(tmp_path)) as serving:
        server = next(process for process in serving.family if process.ppid() == serving.process.pid)
        server.kill()
        assert serving.process.wait(60) == 2
        wait_for(lambda: any("ended with code -9" in line for line in serving.log))


def refused(workspace, *arguments, **extra):
    done = workspace.gapgate("serve", *arguments, "--port", 0, **extra)
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr


def test_an_alias_that_is_not_there_is_said_at_once(workspace):
    assert "nobody" in refused(workspace, "models:/gapgate@nobody")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("model.bento", "--host", "0.0.0.0"), "GAPGATE_API_KEYS"),
        (("nowhere.bento",), "nowhere.bento is missing"),
        (("models:/gapgate@champion",), "`gapgate run` makes one"),
        (("models:/gapgate@champion", "--model", "other"), "leave one out"),
        (("model.bento", "--model", "models:/champion"), "models:/NAME@ALIAS"),
        (("model.bento", "--model", "models:/gapgate@champion"), "no runs yet"),
    ],
)
def test_what_cannot_be_served_is_one_line(tmp_path, arguments, words):
    assert words in refused(Workspace(tmp_path), *arguments)
