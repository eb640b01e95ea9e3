"""Where a workspace keeps what runs write: `GAPGATE_HOME`, by default `.gapgate` in the current folder.

runs/<run>/         a run: settings.json, log.txt, spool/, artifacts/, result.json
mlflow.db           the local tracking store, with mlartifacts/ beside it
checkpoints/<key>/  of a training that has not ended, by the digest of what it trains from
receipts/           <digest>.json
trials/             artifacts that the trials of recipes and sweeps share, by what they are made from
"""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The absolute path of the workspace's folder; it need not exist."""
    return Path(os.environ.get("GAPGATE_HOME") or ".gapgate").absolute()


def runs_dir() -> Path:
    """One folder for each run."""
    return home() / "runs"


def trials_dir() -> Path:
    """One folder for each kind of artifact, with one folder for each of them."""
    return home() / "trials"


def receipts_dir() -> Path:
    """One file for each receipt."""
    return home() / "receipts"


def checkpoint_dir(key: str) -> Path:
    """Checkpoints of the training that `key` (a `sha256:…` digest) names."""
    return home() / "checkpoints" / key.removeprefix("sha256:")[:32]


def local_store() -> Path:
    """The workspace's own tracking store, an SQLite file."""
    return home() / "mlflow.db"


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or the workspace's own store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{local_store()}"


def has_store() -> bool:
    """Whether there is a tracking store to ask: a server, or the file of the workspace's own."""
    return tracking_uri() != f"sqlite:///{local_store()}" or local_store().exists()
