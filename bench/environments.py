"""The folders of the benchmarks, and the virtual environments of the rivals that Gapgate does not depend on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The checkout: PYTHONPATH of every process that runs a module of ours."""
OUT = Path(__file__).parent / "out"
"""Environments and inputs that are kept for the next run; git ignores them."""


def keras_python() -> Path:
    """The interpreter of an environment with Keras and TensorFlow for CPUs."""
    return environment("keras", ["keras>=3.13,<4", "tensorflow-cpu>=2.20,<3"])


def servers_python() -> Path:
    """The interpreter of an environment with FastAPI and LitServe, and our own versions of what all servers share."""
    shared = ("numpy", "onnxruntime", "pillow", "pydantic", "starlette")
    servers = ("uvicorn", "uvloop", "httptools", "python-multipart")
    pinned = [f"{name}=={version(name)}" for name in (*shared, *servers)]
    return environment("serve/rivals", ["fastapi>=0.115,<1", "litserve>=0.2.10,<1", *pinned])


def environment(name: str, packages: Sequence[str]) -> Path:
    """The interpreter of an environment with these packages; uv makes it on the first call."""
    python = OUT / name / "bin/python"
    done = OUT / name / "installed"
    wanted = "\n".join(packages)
    if not done.exists() or done.read_text() != wanted:
        create(OUT / name, *packages)
        done.write_text(wanted)
    return python


def create(folder: Path, *install: str | Path) -> None:
    """Make a virtual environment of this Python version anew; `install` goes to `uv pip install`."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run([_uv(), "venv", "--quiet", "--clear", "--python", python, folder], check=True)
    subprocess.run([_uv(), "pip", "install", "--quiet", "--python", folder / "bin/python", *install], check=True)


def _uv() -> str:
    """The command, on PATH or where `make install` puts it."""
    found = shutil.which("uv", path=f"{os.environ.get('PATH', '')}{os.pathsep}{ROOT / '.uv/bin'}")
    if found is None:
        raise SystemExit("uv is not on PATH nor at .uv/bin/uv; run `make install` first")
    return found
