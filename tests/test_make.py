"""What make says where an installation cannot go on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_torch_for_processors_that_cannot_be_had_is_one_line_before_anything_is_installed(tmp_path: Path) -> None:
    for name in ("Makefile", "runtime.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    uv = tmp_path / "uv"
    uv.write_text(
        '#!/bin/sh\necho "$*" >> calls\nmkdir -p .venv\n'
        '[ "$2" != install ] || { printf "error: failed\\n  cause: dns error\\n  cause: no such host" >&2; exit 1; }\n'
    )
    uv.chmod(0o755)
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    command = ["make", ".venv/.demo", "TORCH=cpu", "UV=./uv", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode == 2
    assert said == [
        "error: https://download.pytorch.org/whl/cpu does not give torch without CUDA: no such host; make demo takes "
        "torch with CUDA from your package index"
    ]
    assert [call.split()[:2] for call in (tmp_path / "calls").read_text().splitlines()] == [
        ["venv", "--quiet"],
        ["pip", "install"],
    ]
    assert not (tmp_path / ".venv" / ".demo").exists()
