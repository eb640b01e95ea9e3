"""The pipeline that `gapgate compile` makes for a cluster, its steps run one after another as pods would: each in a
process of its own, with nobody beside it who speaks to MLflow, a volume that they share, and a server on PostgreSQL."""

import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
import yaml

from components.platform.tracking import mlflow_server
from gapgate import artifacts
from gapgate.settings import load
from pipelines.graph import arguments
from pipelines.kubeflow.cluster_settings import ClusterSettings
from pipelines.kubeflow.compiler import compile_pipeline
from tests.end_to_end.workspace import QUICK
from tests.infra import postgres

RUN = """
import json, os, sys
from kfp import components, local

os.environ["_KFP_RUNTIME"] = "true"  # as KFP's images set it: a step imports neither the compiler nor the clients
local.init(local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[2])
components.load_component_from_file(sys.argv[1])(**json.loads(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An MLflow server's address."""
    folder = tmp_path_factory.mktemp("mlflow")
    with postgres.running() as database, pytest.MonkeyPatch.context() as patch:
        address = database.database("tracking").replace("postgresql://", "postgresql+psycopg://")
        patch.setenv("MLFLOW_TRACKING_URI", address)
        patch.setenv("GAPGATE_HOME", str(folder))
        with mlflow_server.running(folder / "log") as url:
            mlflow.set_tracking_uri(url)  # a client of another store asks this one for logged models
            yield url


@dataclass(frozen=True)
class Cluster:
    """A volume, and pipelines compiled for it."""

    folder: Path
    tracking_uri: str

    def start(self, run, *overrides, **parameters):
        """Begin a run of the pipeline; its id is what a pod reads off its label."""
        content = {
            "images": {"step": "gapgate/step:1", "train": "gapgate/train:1"},
            "tracking_uri": self.tracking_uri,
            "workspace": {"claim": "volume", "mount_path": str(self.folder / "volume")},
            "defaults": {"backoff_s": 1},  # KFP's local runner waits as a cluster does
        }
        (self.folder / "cluster.yaml").write_text(yaml.safe_dump(content))
        compiled = self.folder / f"{run}.yaml"
        compile_pipeline(ClusterSettings.from_file(self.folder / "cluster.yaml"), compiled)
        values = arguments(load(None, [each for each in (*QUICK, *overrides) if each != "--set"]))
        values |= {"data_source": "digits", "experiment": "from the cluster"} | parameters
        return subprocess.Popen(
            [sys.executable, "-c", RUN, str(compiled), str(self.folder / run), json.dumps(values)],
            cwd=self.folder,
            env=os.environ | {"GAPGATE_RUN": run},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ended(self, process):
        """Exit status and output."""
        printed, _ = process.communicate(timeout=1200)
        return process.returncode, printed

    def artifact(self, run, kind):
        (manifest,) = (self.folder / run).glob(f"*/*/{kind}/manifest.json")
        return artifacts.load(manifest.parent, kind)


@pytest.fixture
def cluster(tmp_path, server):
    return Cluster(tmp_path, server)


def tracked(server, run):
    """The MLflow runs of a pipeline run."""
    client = mlflow.MlflowClient(server)
    experiment = client.get_experiment_by_name("from the cluster")
    return client.search_runs([experiment.experiment_id], f"tags.`gapgate.run` = '{run}'")


def test_runs_at_once_get_an_mlflow_run_each_leave_one_champion_and_are_what_the_next_run_finds(cluster, server):
    runs = [str(uuid.uuid4()) for _ in range(2)]
    for process in [cluster.start(run, "registry.model_name=at-once") for run in runs]:
        code, printed = cluster.ended(process)
        assert code == 0, printed
    client = mlflow.MlflowClient(server)
    versions = client.search_model_versions("name='at-once'")
    assert len(versions) == 1  # of one model
    assert versions[0].tags["gapgate.run"] in runs
    champion = client.get_model_version_by_alias("at-once", "champion")
    assert champion.version in {version.version for version in versions}
    for run in runs:
        (found,) = tracked(server, run)
        assert found.info.status == "FINISHED"
        assert found.data.metrics["val/accuracy"] > 0.5
    for run in {version.tags["gapgate.run"] for version in versions}:
        (found,) = tracked(server, run)
        files = {file.path for file in client.list_artifacts(found.info.run_id, "package")}
        assert "package/model.bento" in files
    assert not [path for path in (cluster.folder / "volume/runs").glob("*/spool/files/**/*") if path.is_file()]
    again = str(uuid.uuid4())
    code, printed = cluster.ended(cluster.start(again, "registry.model_name=at-once"))
    assert code == 0, printed
    for kind in ("splits", "policy", "model", "evaluation", "certificate"):
        assert len({cluster.artifact(run, kind).digest for run in (*runs, again)}) == 1
    assert len(client.search_model_versions("name='at-once'")) == len(versions)
    assert client.get_model_version_by_alias("at-once", "champion").version == champion.version
    (found,) = tracked(server, again)
    assert found.info.status == "FINISHED"
    assert found.data.tags["model.version"] in {version.version for version in versions}
    assert not list((cluster.folder / again).glob("*/package"))
    assert "gapgate: resolve: done in" in printed


def test_a_gate_that_does_not_pass_ends_the_mlflow_run_and_packages_nothing(cluster, server):
    run = str(uuid.uuid4())
    code, printed = cluster.ended(
        cluster.start(run, "registry.model_name=stopped", "train.epochs=1", "gate.min_test_accuracy=1.0")
    )
    assert code == 0, printed
    (found,) = tracked(server, run)
    assert found.info.status == "FINISHED"
    assert found.info.run_name.endswith("(gate: fail)")
    (version,) = mlflow.MlflowClient(server).search_model_versions("name='stopped'")
    assert version.tags["gapgate.verdict"] == "fail"
    assert not list((cluster.folder / run).glob("*/package"))


def test_a_server_that_is_away_stops_no_step_before_the_registration_and_a_further_try_registers_once(
    cluster, server, monkeypatch
):
    monkeypatch.setenv("GAPGATE_PATIENCE_S", "1")
    run = str(uuid.uuid4())
    away = Cluster(cluster.folder, "http://127.0.0.1:9")
    code, printed = cluster.ended(away.start(run, "registry.model_name=away"))
    assert code != 0
    assert "does not answer" in printed
    assert cluster.artifact(run, "certificate").read_json("certificate.json")["verdict"] == "pass"
    kinds = ("splits", "policy", "model", "evaluation", "certificate")
    inputs = {kind: str(cluster.artifact(run, kind).path) for kind in kinds}
    tries = 2
    for attempt in range(tries):
        register = "import json, sys; from components.execute import execute; execute(*json.loads(sys.argv[1]))"
        output = str(cluster.folder / f"try{attempt}" / "registration")
        given = ["register", json.dumps({"model_name": "away"}), inputs, output, "from the cluster"]
        done = subprocess.run(
            [sys.executable, "-c", register, json.dumps(given)],
            env=os.environ
            | {"GAPGATE_RUN": run, "GAPGATE_HOME": str(cluster.folder / "volume"), "MLFLOW_TRACKING_URI": server},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    (version,) = mlflow.MlflowClient(server).search_model_versions("name='away'")
    assert version.tags["gapgate.run"] == run
    (found,) = tracked(server, run)
    assert found.data.metrics["val/accuracy"] > 0.5  # reported while the server was away
    names = {file.path for file in mlflow.MlflowClient(server).list_artifacts(found.info.run_id, "model")}
    assert "model/model.onnx" in names


def test_a_gpu_that_was_asked_for_and_is_not_seen_is_named_before_anything_is_begun(cluster, server):
    run = str(uuid.uuid4())
    code, printed = cluster.ended(cluster.start(run, num_gpus=1))
    assert code != 0
    assert "train.accelerator=cuda but" in printed
    assert not list((cluster.folder / "volume/checkpoints").glob("*"))  # nothing was begun
    (found,) = tracked(server, run)
    assert found.info.status == "FAILED"
