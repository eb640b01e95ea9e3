"""A workspace and the real command line in it."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
QUICK = tuple(
    part
    for setting in (
        "augment.operations=[]",
        "train.architecture=tutorial",
        "train.epochs=4",
        "train.batch_size=32",
        "train.learning_rate=0.003",
        "gate.max_gap_points=9",
    )
    for part in ("--set", setting)
)
"""A training of seconds on digits, and a gate that lets its model through."""


@dataclass(frozen=True)
class Workspace:
    """A folder in which `gapgate` is called as a user calls it."""

    folder: Path

    def with_store(self, store):
        """The workspace, with a copy of a tracking store that is empty: its first run would take 3 s to make one."""
        home = self.folder / ".gapgate"
        home.mkdir()
        shutil.copyfile(store, home / "mlflow.db")
        return self

    def environment(self, **extra):
        return (
            os.environ
            | {"MLFLOW_TRACKING_URI": "", "GAPGATE_HOME": str(self.folder / ".gapgate"), "COLUMNS": "160"}
            | extra
        )

    def command(self, *arguments):
        return [sys.executable, "-c", "from cli import main; main()", *map(str, arguments)]

    def gapgate(self, *arguments, **extra):
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(**extra),
            capture_output=True,
            text=True,
            timeout=600,
        )

    def start(self, *arguments, **extra):
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(**extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def one(self, pattern):
        """The only path below `.gapgate/runs` that fits."""
        (found,) = (self.folder / ".gapgate" / "runs").glob(pattern)
        return found
