"""What a run asks of its cluster, and whether one of the nodes can give it."""

from decimal import Decimal

import pytest

from gapgate.errors import ClusterError
from pipelines.kubeflow.cluster_settings import ClusterSettings
from pipelines.kubeflow.demand import check_room, demands
from tests.pipelines.kubeflow.kubernetes_server import kubernetes, node, pod

GIB = 2**30
CLUSTER = ClusterSettings.model_validate(
    {
        "images": {"step": "gapgate/step:1", "train": "gapgate/train:1"},
        "tracking_uri": "http://mlflow:5000",
        "workspace": {"claim": "work"},
        "defaults": {"cpu_request": "500m", "memory_request": "1Gi", "memory_limit": "9Gi"},
        "steps": {"ingest": {"cpu_request": "250m"}, "train": {"cpu_request": "3", "memory_request": "6Gi"}},
    }
)
SMALL = {"cpu": Decimal("0.5"), "memory": GIB}
GPU = ("nvidia.com/gpu", 1)


@pytest.fixture
def check(tmp_path, monkeypatch):
    """`check_room` on a cluster of these nodes and pods, for a run that wants a GPU."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    def check(nodes, pods=(), accounts=("gapgate-pipeline",)):
        with kubernetes(tmp_path, nodes, pods, accounts=accounts) as config:
            monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(config))
            check_room(CLUSTER, demands(CLUSTER, GPU), "kubeflow")

    return check


def test_each_step_asks_for_its_requests_and_train_alone_for_the_gpu():
    asked = demands(CLUSTER, GPU)
    first = {"cpu": Decimal("0.25"), "memory": GIB}
    assert asked.pop("resolve") == asked.pop("ingest") == first
    assert asked.pop("train") == {"cpu": 3, "memory": 6 * GIB, "nvidia.com/gpu": 1}
    assert asked == dict.fromkeys(("preprocess", "augment", "evaluate", "gate", "register", "package"), SMALL)
    assert "nvidia.com/gpu" not in demands(CLUSTER, None)["train"]
    assert demands(CLUSTER, ("amd.com/gpu", 2))["train"] == {"cpu": 3, "memory": 6 * GIB, "amd.com/gpu": 2}


def test_one_node_for_each_step_is_enough(check):
    check([node("many", cpu="1", memory="64Gi"), node("gpu", cpu="4", memory="8Gi", gpu="2")])
    # What runs hold now they will give back.
    check([node("gpu", cpu="4", memory="8Gi", gpu="1")], [pod("train", on="gpu", run="r1", cpu="4", memory="8Gi")])


@pytest.mark.parametrize(
    ("nodes", "pods"),
    [
        # Together they have enough.
        ([node("gpu", cpu="2", memory="8Gi", gpu="1"), node("cores", cpu="2500m", memory="96Gi")], []),
        ([node("cores", cpu="4", memory="8Gi"), node("memory", cpu="3", memory="96Gi")], []),
        ([node("gpu", cpu="4", memory="8Gi", gpu="1")], [pod("postgres", on="gpu", cpu="1500m", memory="1Gi")]),
        ([node("gpu", cpu="4", memory="8Gi", gpu="1") | {"spec": {"unschedulable": True}}, node("few", cpu="2")], []),
    ],
)
def test_a_step_that_no_single_node_can_run_is_refused(check, nodes, pods):
    with pytest.raises(ClusterError, match="no node can ever run "):
        check(nodes, pods)


def test_the_refusal_says_what_is_asked_and_what_the_node_with_most_cores_has(check):
    nodes = [node("memory", cpu="2", memory="96Gi"), node("cores", cpu="4", memory="8Gi")]
    with pytest.raises(ClusterError) as caught:
        check(nodes, [pod("postgres", on="cores", cpu="500m", memory="1Gi")])
    assert str(caught.value) == (
        "no node can ever run train: it asks for cpu 3, memory 6.0 GiB, nvidia.com/gpu 1, and beside the other pods "
        "cores has cpu 3.5, memory 7.0 GiB; lower its requests in the cluster file"
    )


def test_nothing_follows_from_another_cluster_or_without_leave_to_list_nodes(check):
    check([node("none", cpu="100m", memory="1Gi")], accounts=())
    check([])
