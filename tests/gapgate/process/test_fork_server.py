"""Calls of functions in forks of a server that has imported their modules."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gapgate.process import fork_server
from gapgate.process.descendants import children
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="a system without such a server")

MODULE = """
import os, pathlib, subprocess, sys, time
with open("imports.txt", "a") as file:
    file.write(f"{os.getpid()}\\n")

def tell(path):
    print("said", file=sys.stderr)
    status = subprocess.run(["false"]).returncode
    told = [os.getcwd(), os.environ["COLOUR"], str(status), str(os.getpid())]
    pathlib.Path(path).write_text("\\n".join(told))

def fail():
    raise ValueError("no such colour")

def stay(path):
    pathlib.Path(path).write_text(str(os.getpid()))
    time.sleep(60)
"""
CALLER = """
import sys
from gapgate.process import fork_server
fork_server.call("called:stay", {"path": sys.argv[1]}, needs="called")
"""


@pytest.fixture(autouse=True)
def no_other_server(monkeypatch):
    monkeypatch.delenv(fork_server.VARIABLE, raising=False)


@pytest.fixture
def server(tmp_path, monkeypatch):
    (tmp_path / "called.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.chdir(tmp_path)
    before = children(os.getpid())
    with fork_server.running(["called"]):
        yield next(iter(children(os.getpid()) - before))


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def stay(path: Path) -> subprocess.Popen[bytes]:
    """A process whose call has begun; `path` has the number of the fork."""
    caller = subprocess.Popen([sys.executable, "-c", CALLER, str(path)], stderr=subprocess.PIPE)
    wait_for(lambda: path.exists() and path.read_text() != "")
    return caller


def test_calls_share_one_import_and_have_the_files_folder_and_variables_of_their_caller(
    server, tmp_path, monkeypatch, capfd
):
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLOUR", f"colour {number}")
        fork_server.call("called:tell", {"path": "told.txt"}, needs="called")
    told = [(tmp_path / str(number) / "told.txt").read_text().split("\n") for number in range(2)]
    # `false` ends with 1: a fork that went on ignoring the ends of its children would read 0.
    assert [entry[:3] for entry in told] == [
        [str(tmp_path / str(number)), f"colour {number}", "1"] for number in (0, 1)
    ]
    assert told[0][3] != told[1][3]
    assert (tmp_path / "imports.txt").read_text().split() == [str(server)]
    assert capfd.readouterr().err == "said\nsaid\n"


def test_a_server_inside_another_is_that_one(server):
    before = children(os.getpid())
    with fork_server.running(["called"]):
        assert children(os.getpid()) == before
    assert fork_server.is_there()


def test_an_exception_is_named_and_its_traceback_goes_to_the_caller(server, capfd):
    with pytest.raises(fork_server.CallError, match=r"^ValueError: no such colour$"):
        fork_server.call("called:fail", {}, needs="called")
    assert 'raise ValueError("no such colour")' in capfd.readouterr().err


def test_a_killed_fork_is_an_error_of_the_call(server, tmp_path):
    caller = stay(tmp_path / "pid.txt")
    os.kill(int((tmp_path / "pid.txt").read_text()), signal.SIGKILL)
    assert b"CallError: its process was killed" in caller.communicate()[1]


def test_a_fork_ends_with_its_caller_and_the_server_goes_on(server, tmp_path):
    caller = stay(tmp_path / "pid.txt")
    caller.kill()
    caller.communicate()
    wait_for(lambda: is_gone(int((tmp_path / "pid.txt").read_text())))
    assert not is_gone(server)


def test_ctrl_c_reaches_a_fork_and_not_the_server(server, tmp_path):
    caller = stay(tmp_path / "pid.txt")
    for pid in (server, int((tmp_path / "pid.txt").read_text())):
        os.kill(pid, signal.SIGINT)
    assert b"CallError: KeyboardInterrupt" in caller.communicate()[1]
    assert not is_gone(server)


def test_a_call_without_a_server_calls_nothing(server, tmp_path):
    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)
    with pytest.raises(OSError, match="refused"):
        fork_server.call("called:tell", {"path": str(tmp_path / "told.txt")}, needs="called")
    assert not (tmp_path / "told.txt").exists()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_ends_with_the_process_that_started_it(tmp_path, end):
    program = "import os, time\nfrom gapgate.process import descendants, fork_server\n"
    program += "with fork_server.running([]):\n print(*descendants.children(os.getpid()), flush=True)\n time.sleep(60)"
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert owner.stdout
    server = int(owner.stdout.readline())
    owner.send_signal(end)
    owner.wait()
    owner.stdout.close()
    wait_for(lambda: is_gone(server))
