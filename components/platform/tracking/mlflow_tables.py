"""Tables among the artifacts of an MLflow run."""

from __future__ import annotations

import json

TABLES_TAG = "mlflow.loggedArtifacts"
"""Tag with the places of a run's tables."""


def table_tag(*paths: str) -> dict[str, str]:
    """Tag that makes MLflow's page and `mlflow.load_table` know the artifacts at `paths` as tables, as
    `mlflow.log_table` sets it; the files have `columns` and `data`, a list for each row."""
    return {TABLES_TAG: json.dumps([{"path": path, "type": "table"} for path in paths])}


def with_tables(known: str | None, added: str) -> str:
    """The tag with the tables of two others, each once."""
    tables = [*json.loads(known or "[]"), *json.loads(added)]
    return json.dumps([each for at, each in enumerate(tables) if each not in tables[:at]])
