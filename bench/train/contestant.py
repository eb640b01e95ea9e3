"""The bench's side: contestants in processes of their own, of which only the one that is measured may run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

BENCH = Path(__file__).parents[1]
ROOT = BENCH.parent
OUT = BENCH / "out"


class Contestant:
    """A worker script, stopped by SIGSTOP between its rounds: idle thread pools that spin would slow the others."""

    def __init__(self, python: Path | str, script: str, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [str(python), "-m", f"bench.train.{script}", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if script == "keras_fit" else None,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        )
        try:
            self.note = self._answer().removeprefix("ready").strip()
        except BaseException:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    def __enter__(self) -> Contestant:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def measure(self) -> float:
        """One round; the others are stopped."""
        self._signal(signal.SIGCONT)
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        figure = float(self._answer())
        self._signal(signal.SIGSTOP)
        return figure

    def close(self) -> None:
        """End the process and its children."""
        if self._process.poll() is None:
            self._signal(signal.SIGKILL)
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline().strip():
            return line
        said = self._process.stderr.read()[-2000:] if self._process.stderr else ""
        raise SystemExit(f"{self._process.args} ended without an answer\n{said}")

    def _signal(self, number: int) -> None:
        os.killpg(self._process.pid, number)


def keras_python() -> Path:
    """The interpreter of an environment with Keras and TensorFlow for CPUs."""
    return environment("keras", ["keras>=3.13,<4", "tensorflow-cpu>=2.20,<3"])


def environment(name: str, packages: Sequence[str]) -> Path:
    """The interpreter of an environment with these packages, made by uv on the first call."""
    python = OUT / name / "bin/python"
    done = OUT / name / "installed"
    wanted = "\n".join(packages)
    if not done.exists() or done.read_text() != wanted:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        subprocess.run([uv(), "venv", "--quiet", "--clear", "--python", version, OUT / name], check=True)
        subprocess.run([uv(), "pip", "install", "--quiet", "--python", python, *packages], check=True)
        done.write_text(wanted)
    return python


def uv() -> str:
    """The command, on PATH or where `make install` puts it."""
    found = shutil.which("uv", path=f"{os.environ.get('PATH', '')}{os.pathsep}{ROOT / '.uv/bin'}")
    if found is None:
        raise SystemExit("uv is not on PATH nor at .uv/bin/uv; run `make install` first")
    return found
