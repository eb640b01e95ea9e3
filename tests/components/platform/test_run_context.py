import subprocess
import sys
from pathlib import Path

import pytest

from components.platform.run_context import RunContext

WORK = (
    "from components.platform.run_context import RunContext as R\nwith R('one').alive():\n print(flush=True); input()"
)


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunContext:
    monkeypatch.setenv("GAPGATE_HOME", str(tmp_path))
    found = RunContext("one")
    found.folder.mkdir(parents=True)
    return found


def test_a_run_is_alive_until_its_process_is_killed(context: RunContext) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", WORK], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        assert context.is_alive()
        assert context.is_alive()  # asking holds nothing
        process.kill()
    assert not context.is_alive()


def test_a_run_is_alive_for_the_process_that_works_on_it(context: RunContext) -> None:
    with context.alive():
        assert context.is_alive()
    assert not context.is_alive()


def test_asking_about_a_run_that_never_worked_makes_no_file(context: RunContext) -> None:
    assert not context.is_alive()
    assert list(context.folder.iterdir()) == []
