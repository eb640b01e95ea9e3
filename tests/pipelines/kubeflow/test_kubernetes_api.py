"""What nodes have and pods ask for, from a server that answers as Kubernetes does."""

from decimal import Decimal

import pytest

from pipelines.kubeflow import kubernetes_api
from tests.pipelines.kubeflow.kubernetes_server import kubernetes, node, pod

GIB = 2**30
NODES = (node("small", cpu="1900m", memory="3Gi"), node("large", cpu="4", memory="16Gi", gpu="1"))
PODS = (
    pod("postgres", on="large", cpu="500m", memory="1Gi"),
    pod("train", on="large", run="r1", init=({"cpu": "100m"},), cpu="2", memory="8Gi"),
    pod("replaced", on="large", deleted="2026-11-27T20:20:40Z", cpu="1", memory="4Gi"),
    pod("launcher", run="r2", init=({"cpu": "3"}, {"cpu": "1"}), cpu="1500m"),
)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Use a cluster with these nodes, pods and logs, by the place of its kubeconfig."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with kubernetes(tmp_path, NODES, PODS, {"train": "epoch 1\n"}) as config:
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(config))
        yield


def test_a_node_has_free_what_its_pods_leave(cluster):
    small, large = kubernetes_api.nodes()
    assert small.free == {"cpu": Decimal("1.9"), "memory": 3 * GIB}
    assert large.free == {"cpu": Decimal("1.5"), "memory": 7 * GIB, "nvidia.com/gpu": 1}


def test_between_runs_the_pods_of_runs_do_not_count(cluster):
    large = kubernetes_api.nodes(between_runs=True)[1]
    assert large.free["cpu"] == Decimal("3.5")
    assert large.gives({"cpu": Decimal("3.5"), "nvidia.com/gpu": Decimal(1)})
    assert not large.gives({"cpu": Decimal("3.6")})
    assert not large.gives({"amd.com/gpu": Decimal(1)})


def test_a_pod_asks_for_its_containers_or_its_largest_init_container(cluster):
    assert kubernetes_api.pod_requests("kubeflow", "train") == {"cpu": 2, "memory": 8 * GIB}
    assert kubernetes_api.pod_requests("kubeflow", "launcher") == {"cpu": 3}
    assert kubernetes_api.pod_requests("kubeflow", "gone") is None


def test_logs_and_accounts_are_those_of_the_cluster(cluster):
    assert kubernetes_api.pod_log("kubeflow", "train") == "epoch 1\n"
    assert kubernetes_api.pod_log("kubeflow", "gone") is None
    assert kubernetes_api.has_account("kubeflow", "gapgate-pipeline")
    assert not kubernetes_api.has_account("kubeflow", "other")


@pytest.mark.parametrize("server", ["", "http://127.0.0.1:9"])
def test_without_a_cluster_that_answers_nothing_is_known(tmp_path, monkeypatch, server):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with kubernetes(tmp_path) as config:
        text = config.read_text()
    if not server:
        text = "{}"
    config.write_text(text)
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(config))
    assert kubernetes_api.nodes() is None


def test_amounts_are_written_with_their_units():
    amounts = {"cpu": Decimal("1.50"), "memory": Decimal(8 * GIB), "pods": Decimal(110), "nvidia.com/gpu": Decimal(2)}
    assert kubernetes_api.text(amounts) == "cpu 1.5, memory 8.0 GiB, nvidia.com/gpu 2"
    assert kubernetes_api.text({"cpu": Decimal(10)}) == "cpu 10"
