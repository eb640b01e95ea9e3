"""A project that has packages named as ours are."""

import subprocess
import sys

import pytest

from gapgate.process.own_packages import first_in_children

PROGRAM = """
import gapgate
try:
    gapgate.load
except gapgate.errors.GapgateError as error:
    print(error)
else:
    print("ours")
"""


def said(folder, *options):
    (folder / "program.py").write_text(PROGRAM)
    done = subprocess.run([sys.executable, *options, "program.py"], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@pytest.mark.parametrize("place", ["pipelines/__init__.py", "components/__init__.py", "serving.py"])
def test_a_package_that_hides_ours_is_named_in_one_line(tmp_path, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("")
    line = said(tmp_path)
    hides = tmp_path / place.removesuffix("/__init__.py")
    assert line.startswith(f"{hides} hides Gapgate's package of that name; rename it, or use Gapgate in a program")
    assert "\n" not in line
    assert said(tmp_path, "-P") == "ours"


def test_packages_that_hide_nothing_are_no_matter(tmp_path):
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli" / "__init__.py").write_text("")
    (tmp_path / "components").mkdir()  # without __init__.py: one of a whole package comes first
    assert said(tmp_path) == "ours"


def test_a_child_imports_ours_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    (tmp_path / "components").mkdir()
    (tmp_path / "components" / "__init__.py").write_text("")
    command = [sys.executable, "-c", "import components.execute"]
    with first_in_children():
        assert subprocess.run(command, cwd=tmp_path).returncode == 0
    assert subprocess.run(command, cwd=tmp_path, stderr=subprocess.DEVNULL).returncode == 1
