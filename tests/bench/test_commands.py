"""Each benchmark starts under the name that the Makefile calls it by."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = re.findall(r"-m (bench\.\w+)", (ROOT / "Makefile").read_text())


@pytest.mark.parametrize("module", COMMANDS)
def test_a_benchmark_of_the_makefile_prints_its_own_name_in_its_help(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    assert ended.value.code == 0
    assert f"python -m {module} " in capsys.readouterr().out


def test_the_makefile_calls_every_benchmark() -> None:
    """A benchmark takes options; what else can be started under `bench` is a child of one."""
    folders = {path.parent.name for path in (ROOT / "bench").glob("*/__main__.py")}
    files = {path.stem for path in (ROOT / "bench").glob("*.py") if "def main(argv" in path.read_text()}
    assert {f"bench.{name}" for name in folders | files} == set(COMMANDS)
