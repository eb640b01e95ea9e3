"""The folders of a workspace, where runs write: `GAPGATE_HOME`, by default `.gapgate` in the current folder.

runs/<run>/         a run: settings.json, log.txt, spool/, artifacts/, promotion.json, result.json
mlflow.db           the local tracking store, with mlartifacts/ beside it
checkpoints/<key>/  checkpoints of a training that has not ended; the key is a digest of its inputs and settings
features/           features of images by pretrained networks, by content hash
receipts/           <digest>.json
bentos/             <digest>.bento: champions' Bentos that were fetched from the registry
trials/             artifacts that the trials of recipes and sweeps share, by a digest of their inputs and settings
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

from components.platform import credentials
from gapgate.errors import StorageError


def home() -> Path:
    """The absolute path of the workspace's folder; it need not exist."""
    return Path(os.environ.get("GAPGATE_HOME") or ".gapgate").absolute()


def runs_dir() -> Path:
    """Folder with one folder for each run."""
    return home() / "runs"


def trials_dir() -> Path:
    """Folder of the trials' artifacts: <kind>/<key>/."""
    return home() / "trials"


def receipts_dir() -> Path:
    """Folder with one file for each receipt."""
    return home() / "receipts"


def bentos_dir() -> Path:
    """Folder of the Bentos that were fetched from the registry, by the digest of the package."""
    return home() / "bentos"


def checkpoint_dir(key: str) -> Path:
    """Folder for the checkpoints of the training with the digest `key` (`sha256:…`)."""
    # 128 bits of the digest keep the path short.
    return home() / "checkpoints" / key.removeprefix("sha256:")[:32]


def features_dir() -> Path:
    """Folder of the features that pretrained networks gave, a file for each network and way to its pixels."""
    return home() / "features"


def local_store() -> Path:
    """The workspace's own tracking store, an SQLite file."""
    return home() / "mlflow.db"


def artifacts_dir() -> Path:
    """Folder of the artifacts of that store."""
    return home() / "mlartifacts"


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, without the user and password of a server, or the workspace's own store.

    Raises:
        StorageError: the workspace has a place that MLflow's SQLite store cannot have.
    """
    credentials.take_from_tracking()
    # `or`: an empty variable means not set.
    return os.environ.get("MLFLOW_TRACKING_URI") or _local_uri()


def _local_uri() -> str:
    place = str(local_store())
    # SQLAlchemy 2.1 reads it as a URL, 2.0 as it is; MLflow makes the folder of the unread one in both.
    if "?" in place or unquote(place) != place:
        raise StorageError(
            f"MLflow cannot keep its database in {home()}: a ? or % in the name has another meaning in a URL; "
            "choose another folder by GAPGATE_HOME"
        )
    return f"sqlite:///{place}"


def is_local() -> bool:
    """True if the tracking store is the workspace's own file."""
    return tracking_uri() == f"sqlite:///{local_store()}"


def has_store() -> bool:
    """True if there is a tracking store to ask: a server, or the workspace's own file."""
    return not is_local() or local_store().exists()
