"""Tables among the artifacts of an MLflow run."""

from __future__ import annotations

import json


def table_tag(path: str) -> dict[str, str]:
    """Tag that makes MLflow's page and `mlflow.load_table` know the artifact at `path` as a table, as
    `mlflow.log_table` sets it; the file has `columns` and `data`, a list for each row."""
    return {"mlflow.loggedArtifacts": json.dumps([{"path": path, "type": "table"}])}
