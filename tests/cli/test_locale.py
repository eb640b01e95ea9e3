"""The command line in a locale that is not UTF-8."""

import os
import subprocess
import sys

import pytest
from PIL import Image


@pytest.mark.parametrize("name", ["été", "東京"])
def test_the_digest_is_the_same_in_any_locale(tmp_path, name):
    for label in (name, "b"):
        (tmp_path / "in" / label).mkdir(parents=True)
        Image.new("L", (6, 4), len(label)).save(tmp_path / "in" / label / "1.png")
    command = [sys.executable, "-c", "from cli import main; main()", "step", "ingest", "--set", "data.source=in"]
    printed = set()
    for locale in ({"LC_ALL": "C.UTF-8"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | locale, capture_output=True, check=True)
        printed.add(done.stdout)
    assert len(printed) == 1
    assert f"{name}/1.png" in (tmp_path / "artifacts" / "dataset" / "files.sha256").read_text(encoding="utf-8")
