"""Demand of a run on its cluster, and whether a node can meet it."""

from __future__ import annotations

from decimal import Decimal

from components.catalog import TASKS
from gapgate.errors import ClusterError
from pipelines.kubeflow import kubernetes_api
from pipelines.kubeflow.cluster_settings import ClusterSettings
from pipelines.kubeflow.kubernetes_api import Amounts


def demands(cluster: ClusterSettings, gpu: tuple[str, int] | None) -> dict[str, Amounts]:
    """Step → what its pod asks for: cores, bytes of memory, and for train `gpu`, a kind and a number."""
    asked: dict[str, Amounts] = {}
    for step in TASKS:
        place = cluster.place(step)
        amounts = {
            "cpu": kubernetes_api.amount(place.cpu_request),
            "memory": kubernetes_api.amount(place.memory_request),
        }
        if gpu and step == "train":
            amounts[gpu[0]] = Decimal(gpu[1])
        asked[step] = amounts
    return asked


def check_room(cluster: ClusterSettings, asked: dict[str, Amounts], namespace: str) -> None:
    """Check that for each step one node is large enough; without leave to ask Kubernetes nothing is checked.

    Args:
        namespace: that of the pods.

    Raises:
        ClusterError: no node can give what a step asks for, even while no other run is at work.
    """
    # Of another cluster's nodes, as where kubectl's context is not that of --host, nothing follows.
    if not kubernetes_api.has_account(namespace, cluster.service_account):
        return
    nodes = kubernetes_api.nodes(between_runs=True) or []
    for step, amounts in asked.items():
        if nodes and not any(node.gives(amounts) for node in nodes):
            best = max(nodes, key=lambda node: node.free.get("cpu", Decimal(0)))
            raise ClusterError(
                f"no node can ever run {step}: it asks for {kubernetes_api.text(amounts)}, and beside the other pods "
                f"{best.name} has {kubernetes_api.text(best.free)}; lower its requests in the cluster file"
            )
