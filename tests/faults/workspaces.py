"""A user's folder with files of the user's own, and what is true of it after any fault."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import subprocess
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from gapgate import artifacts
from tests.end_to_end.workspace import Workspace

DATA = "mine.npz"
SETTINGS = tuple(
    part
    for setting in (
        "augment.operations=[]",
        "augment.preview_images=1",
        "train.architecture=softmax",
        "train.epochs=5",
        "train.batch_size=32",
        "train.learning_rate=0.03",
        "evaluate.num_resamples=1000",
        "package.similar_images=100",
        "gate.max_gap_points=50",
        "gate.max_ece=0.9",
        "gate.min_test_accuracy=0.5",
        "gate.min_class_recall=0",
    )
    for part in ("--set", setting)
)
"""The shortest run whose model passes."""
RUN = ("run", DATA, *SETTINGS)
JUDGED = {"train/model": "model", "evaluate/evaluation": "evaluation", "gate/certificate": "certificate"}


class FaultWorkspace(Workspace):
    """A workspace with a data set and other files of its user, and a folder for temporary files of its own."""

    @property
    def home(self) -> Path:
        return self.folder / ".gapgate"

    @property
    def temporary(self) -> Path:
        return self.folder.parent / f"{self.folder.name}-temporary"

    def environment(self, **extra: str) -> dict[str, str]:
        return super().environment(TMPDIR=str(self.temporary), **extra)

    def make(self, empty_store: Path | None = None) -> FaultWorkspace:
        """Make the folder, its data set and, from `empty_store`, an MLflow store."""
        self.folder.mkdir()
        self.temporary.mkdir()
        images, labels = load_digits(return_X_y=True)
        np.savez(self.folder / DATA, images=(images.reshape(-1, 8, 8) * 15.9375).astype(np.uint8), labels=labels)
        (self.folder / "notes").mkdir()
        (self.folder / "notes" / ".hidden").write_text("mine")
        (self.folder / "notes" / "plan.txt").write_text("mine too")
        if empty_store:
            self.home.mkdir()
            shutil.copyfile(empty_store, self.home / "mlflow.db")
        return self

    def copy(self, folder: Path) -> FaultWorkspace:
        """A copy with a home of its own, below a folder that is there."""
        shutil.copytree(self.folder, folder / "user", symlinks=True)
        made = FaultWorkspace(folder / "user")
        made.temporary.mkdir()
        return made

    def user_files(self) -> dict[str, str]:
        """sha256 of each file that is not Gapgate's."""
        return {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.folder.rglob("*")
            if path.is_file() and not path.is_relative_to(self.home)
        }

    def processes(self) -> dict[int, str]:
        """Processes of any command in this workspace that are at work: number → command line."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"GAPGATE_HOME={self.home}\0".encode() in (place / "environ").read_bytes():
                    found[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def runs(self) -> list[Path]:
        """Folders of the runs, oldest first; their names alone sort only by the second."""
        return sorted(self.home.glob("runs/*"), key=lambda folder: folder.stat().st_ctime_ns)

    def digests(self, run: Path) -> dict[str, str]:
        """Kind → digest of the model, the evaluation and the certificate of a run that has ended well."""
        found = {}
        for place, kind in JUDGED.items():
            (folder,) = run.glob(f"artifacts/*/{place}")
            found[kind] = artifacts.load(folder, kind).digest
        return found

    # The local store, read as it is on the disk: no command of ours has cleaned it up before.

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        # To write, too: SQLite takes back what a process that was killed has half written.
        with closing(sqlite3.connect(f"file:{self.home}/mlflow.db?mode=rw", uri=True)) as store:
            return store.execute(query).fetchall()

    def statuses(self) -> dict[str, str]:
        """Pipeline run → status of its MLflow run; two of one name are an error."""
        query = "SELECT value, status FROM tags JOIN runs USING (run_uuid) WHERE key = 'gapgate.run'"
        rows = self.rows(query)
        assert len(dict(rows)) == len(rows), rows
        return dict(rows)

    def versions(self) -> dict[str, dict[str, str]]:
        """Version → tags."""
        found: dict[str, dict[str, str]] = {
            str(row[0]): {}
            for row in self.rows("SELECT version FROM model_versions WHERE current_stage != 'Deleted_Internal'")
        }
        for version, key, value in self.rows("SELECT version, key, value FROM model_version_tags"):
            found[str(version)][key] = value
        return found

    def aliases(self) -> dict[str, str]:
        return {
            alias: str(version) for alias, version in self.rows("SELECT alias, version FROM registered_model_aliases")
        }

    # What is always true

    def check_registry(self) -> None:
        """One version of a model, and no alias for one that has no package."""
        versions = self.versions()
        identities = [(tags.get("gapgate.model"), tags.get("gapgate.certificate")) for tags in versions.values()]
        assert len(set(identities)) == len(identities), versions
        for version in self.aliases().values():
            assert versions[version].get("gapgate.package"), versions

    def check_statuses(self) -> None:
        """Each run's status in MLflow is what became of it."""
        statuses = self.statuses()
        for run in self.runs():
            if run.name in statuses:
                assert statuses[run.name] in _true_statuses(run), (run, statuses)
        assert set(statuses) <= {run.name for run in self.runs()}

    def check_nothing_temporary(self) -> None:
        """Nothing is left of a run that was killed but its own folder."""
        assert list(self.temporary.iterdir()) == []
        left = [path for path in self.home.rglob(".*.partial-*") if "runs" not in path.parts]
        assert left == []
        assert not list(self.home.glob("runs/*/tmp"))


def _true_statuses(run: Path) -> set[str]:
    result = run / "result.json"
    if result.exists():
        return {"FINISHED" if json.loads(result.read_text())["exit_code"] in (0, 3) else "FAILED"}
    # Killed; or all was done, and it was killed between the end of its MLflow run and its result.
    is_done = any(run.glob("artifacts/*/package/bento/manifest.json"))
    return {"KILLED", "FINISHED"} if is_done else {"KILLED"}


def output(process: subprocess.Popen[str], timeout_s: float = 300) -> str:
    """What a command printed, once it has ended."""
    printed, errors = process.communicate(timeout=timeout_s)
    return printed + errors
