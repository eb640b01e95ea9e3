"""Tables of a run, read back by MLflow itself from a real store."""

from pathlib import Path

from components.platform.run_context import RunContext
from components.platform.tracking import mlflow_client, mlflow_runs
from components.platform.tracking.mlflow_tables import table_tag
from components.platform.tracking.spool import Spool
from gapgate.artifacts import write_json


def test_mlflow_reads_the_images_set_aside_as_a_table(home: Path, tmp_path: Path) -> None:
    context = RunContext("r1")
    spool = Spool(context.spool, "preprocess")
    write_json(tmp_path / "set_aside.json", {"columns": ["image", "reason"], "data": [["a.png", "corrupt"]]})
    spool.file(tmp_path / "set_aside.json", "data")
    spool.tags(table_tag("data/set_aside.json"))
    run = mlflow_client.client().get_run(mlflow_runs.send(context))
    table = mlflow_client.client().load_table(run.info.experiment_id, "data/set_aside.json")
    assert table.to_dict("records") == [{"image": "a.png", "reason": "corrupt"}]
