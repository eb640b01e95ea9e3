"""Files of predictions, where the names in them are hostile."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest

from serving.client.output import csv_to
from serving.client.prediction import Row, read


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", " =", "\t=", "\r="])
def test_a_csv_has_no_formula_and_no_escape_sequence(begin: str) -> None:
    name = f"{begin}cmd|' /C calc'!A0\x1b[2J\nx.png"
    file = io.StringIO()
    with csv_to(file, 2) as write:
        write([Row(name, name, "1", "sha256:a", {name: 0.75, "plain": 0.25}), Row(name, "m", "1", "", error=name)])
    assert file.getvalue().replace("\n", "").isprintable()
    _, answered, failed = csv.reader(io.StringIO(file.getvalue()))
    assert answered[2:5] == ["0.75", "plain", "0.25"]
    assert not [cell for cell in (*answered, *failed) if cell.lstrip()[:1] in tuple("=+-@")]


def test_a_pipe_is_not_waited_for_under_any_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.png").symlink_to("pipe")
    for name in ("pipe", "link.png"):
        assert read(tmp_path / name) == "is a pipe or a device; give a file"
