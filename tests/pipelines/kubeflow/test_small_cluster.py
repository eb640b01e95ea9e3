"""Requests that fit a small node."""

from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from gapgate.errors import SettingsError
from pipelines.kubeflow.cluster_settings import ClusterSettings
from pipelines.kubeflow.kubernetes_api import amount
from pipelines.kubeflow.small_cluster import fitted, main
from tests.pipelines.kubeflow.kubernetes_server import kubernetes, node, pod

PIPELINE = Path(__file__).parents[3] / "infra/pipeline.yaml"
CONTENT = yaml.safe_load(PIPELINE.read_text())
GIB = 2**30


@pytest.mark.parametrize("cores", ["0.2", "1", "2"])
def test_each_step_fits_and_its_limits_hold_its_requests(cores):
    free = {"cpu": Decimal(cores), "memory": Decimal(4 * GIB)}
    settings = ClusterSettings.model_validate(fitted(CONTENT, free))
    for step in ("ingest", "train", "evaluate"):
        place = settings.place(step)
        assert Decimal("0.1") <= amount(place.cpu_request) <= Decimal("0.75") * free["cpu"]
        assert amount(place.cpu_request) <= amount(place.cpu_limit)
        assert amount(place.memory_request) <= amount(place.memory_limit) <= 3 * GIB
        assert amount(place.shared_memory or "0") < amount(place.memory_limit)


def test_on_a_large_node_and_for_all_else_the_settings_stay():
    large = ClusterSettings.model_validate(fitted(CONTENT, {"cpu": Decimal(64), "memory": Decimal(256 * GIB)}))
    small = ClusterSettings.model_validate(fitted(CONTENT, {"cpu": Decimal(1), "memory": Decimal(2 * GIB)}))
    own = ClusterSettings.model_validate(CONTENT)
    for field in ("cpu_request", "memory_request", "memory_limit", "shared_memory"):
        assert amount(getattr(large.place("train"), field)) == amount(getattr(own.place("train"), field))
    for kept in ("cpu_limit", "timeout_s", "retries", "tolerations", "labels", "optional_secrets"):
        assert getattr(small.place("train"), kept) == getattr(own.place("train"), kept)
    assert small.workspace == own.workspace


def test_a_step_asks_for_three_quarters_and_shares_a_quarter_of_its_limit():
    train = ClusterSettings.model_validate(fitted(CONTENT, {"cpu": Decimal(2), "memory": Decimal(4 * GIB)})).place(
        "train"
    )
    assert (train.cpu_request, train.memory_request, train.memory_limit) == ("1500m", "3072Mi", "3072Mi")
    assert train.shared_memory == "768Mi"


def test_the_settings_are_printed_for_the_node_with_most_cores_as_it_is_between_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    nodes = [node("memory", cpu="2", memory="64Gi"), node("cores", cpu="4", memory="8Gi")]
    pods = [pod("mysql", on="cores", cpu="1", memory="1Gi"), pod("train", on="cores", run="r1", cpu="2", memory="6Gi")]
    with kubernetes(tmp_path, nodes, pods) as config:
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(config))
        assert main([str(PIPELINE), "0.2.0-abc"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        f"# By infra/up: {PIPELINE} with what fits on cores, which has cpu 3, memory 7.0 GiB free.\n"
    )
    found = yaml.safe_load(printed)
    assert found["images"] == {"step": "gapgate/step:0.2.0-abc", "train": "gapgate/train:0.2.0-abc"}
    assert found["steps"]["train"]["cpu_request"] == "2000m"  # as asked; 2250 would fit
    assert found["steps"]["train"]["memory_request"] == "5376Mi"  # three quarters of 7 GiB


def test_without_a_cluster_nothing_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    assert main([str(PIPELINE), "0.2.0-abc"]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (
        "",
        "error: the cluster's nodes cannot be listed; `kubectl get nodes` says why\n",
    )


def test_a_node_without_room_is_told():
    with pytest.raises(SettingsError, match=r"has cpu 0.1, memory 8.0 GiB free.*needs \(cpu 0.1, memory 0.5 GiB\)"):
        fitted(CONTENT, {"cpu": Decimal("0.1"), "memory": Decimal(8 * GIB)})
