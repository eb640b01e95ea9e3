from __future__ import annotations

import json
from pathlib import Path

import pytest

from gapgate import summed_json
from gapgate.errors import ArtifactError

CONTENT = {"run_id": "0" * 32, "offsets": {"train.jsonl": 12}, "ended": True, "name": "Zoë"}


def test_each_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    summed_json.write(path, CONTENT)
    assert summed_json.read(path) == CONTENT
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises((ArtifactError, UnicodeDecodeError)):
            summed_json.read(path)


def test_a_file_of_an_earlier_version_has_no_sum(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text(json.dumps(CONTENT))
    assert summed_json.read(path) == CONTENT
    assert summed_json.read(tmp_path / "none.json") == {}
