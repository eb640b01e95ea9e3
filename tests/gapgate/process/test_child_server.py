import re
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest

from gapgate.errors import ServeError
from gapgate.process import child_server
from tests.waiting import wait_for

STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
print("deaf", flush=True)
time.sleep(600)
"""


def test_a_server_is_awaited_until_it_answers(tmp_path: Path) -> None:
    port, log = child_server.free_port(), tmp_path / "log"
    url = f"http://127.0.0.1:{port}"
    process = child_server.start([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)], log)
    try:
        child_server.wait(process, log, "it", partial(child_server.unanswered, url), 60)
        assert "404" in (child_server.unanswered(f"{url}/nothing") or "")
    finally:
        child_server.stop(process)
    assert child_server.unanswered(url) is not None


def test_a_server_that_ends_is_named_with_its_code_and_its_last_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = child_server.start([sys.executable, "-c", "print('one'); exit('error: two')"], log)
    with pytest.raises(ServeError, match=r"^it ended with code 1: two$"):
        child_server.wait(process, log, "it", lambda: "it is not there", 60)


def test_a_server_that_never_is_ready_is_given_up_with_what_it_lacks(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = child_server.start(["sleep", "600"], log)
    try:
        with pytest.raises(ServeError, match=rf"^it is not ready after 0\.1 s: it sleeps; see {re.escape(str(log))}$"):
            child_server.wait(process, log, "it", lambda: "it sleeps", 0.1)
        with pytest.raises(ServeError, match=r"^it will never wake$"):
            child_server.wait(process, log, "it", lambda: ServeError("it will never wake"), 60)
    finally:
        child_server.stop(process)


@pytest.mark.parametrize("whole_group", [False, True])
def test_a_server_and_its_children_end_even_when_they_ignore_sigterm(whole_group: bool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = child_server.start([sys.executable, "-c", STUBBORN], log)
    wait_for(lambda: log.read_text().count("deaf") == 2)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
    assert len(family) == 2
    child_server.stop(process, 0.1, whole_group=whole_group)
    assert not psutil.wait_procs(family, timeout=10)[1]
