"""The cluster's own Kubernetes API: what nodes have, what pods ask for, and their logs.

It is asked where a kubectl context or a pod's account allows it; everywhere else the answer is None, not an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

T = TypeVar("T")
Amounts = Mapping[str, Decimal]
"""Resource (`cpu`, `memory`, `nvidia.com/gpu`) → amount: cores, bytes, number."""
_TIMEOUT_S = (5, 20)
_RUN_LABEL = "pipeline/runid"


@dataclass(frozen=True, slots=True)
class Node:
    """Machine of the cluster that takes pods."""

    name: str
    free: Amounts
    """Rest that its pods leave of what it has."""

    def gives(self, asked: Amounts) -> bool:
        """True if a pod with these requests fits on the node."""
        return all(self.free.get(name, Decimal(0)) >= amount for name, amount in asked.items())


def amount(quantity: str) -> Decimal:
    """A quantity in Kubernetes' notation as a number: `500m` is 0.5, `4Gi` is 2³²."""
    from kubernetes.utils import parse_quantity

    return Decimal(parse_quantity(quantity))


def text(amounts: Amounts) -> str:
    """CPU, memory and devices for people: `cpu 2, memory 8.0 GiB, nvidia.com/gpu 1`."""
    return ", ".join(
        f"memory {value / 2**30:.1f} GiB" if name == "memory" else f"{name} {value.normalize():f}"
        for name, value in amounts.items()
        if name in ("cpu", "memory") or "/" in name
    )


def nodes(*, between_runs: bool = False) -> list[Node] | None:
    """The nodes that take pods; `between_runs` counts as free what the pods of runs have now."""

    def ask(core: Any) -> list[Node]:
        selector = f"!{_RUN_LABEL}" if between_runs else ""
        found = core.list_pod_for_all_namespaces(label_selector=selector, _request_timeout=_TIMEOUT_S).items
        # One that is being deleted, as while a deployment is replaced, gives what it has back within seconds.
        there = [pod for pod in found if not pod.metadata.deletion_timestamp]
        # A pod that has ended holds nothing any more, though it is listed for days.
        pods = [pod for pod in there if pod.status.phase in ("Pending", "Running")]
        return [
            _node(one, [pod for pod in pods if pod.spec.node_name == one.metadata.name])
            for one in core.list_node(_request_timeout=_TIMEOUT_S).items
            # Cordoned, as before an update: it takes no new pods.
            if not one.spec.unschedulable
        ]

    return _asked(ask)


def requests_of(pod: Any) -> Amounts:
    """Resources that a pod asks for: its containers' together, or more where one of its init containers needs more."""
    total = _sum(map(_requests, pod.spec.containers))
    # They run one after another, before the others.
    for asked in map(_requests, pod.spec.init_containers or []):
        total |= {name: max(value, total.get(name, value)) for name, value in asked.items()}
    return total


def has_account(namespace: str, service_account: str) -> bool:
    """True if the cluster that can be asked has this account, so that it is the one on which runs use it."""
    asked = _asked(
        lambda core: core.read_namespaced_service_account(service_account, namespace, _request_timeout=_TIMEOUT_S)
    )
    return asked is not None


def pod_requests(namespace: str, pod: str) -> Amounts | None:
    """Resources that a pod asks for; None if Kubernetes may not be asked or has no such pod."""
    return _asked(lambda core: requests_of(core.read_namespaced_pod(pod, namespace, _request_timeout=_TIMEOUT_S)))


def pod_log(namespace: str, pod: str) -> str | None:
    """The log of a pod's main container; None if Kubernetes may not be asked or has no such pod."""
    return _asked(
        lambda core: str(core.read_namespaced_pod_log(pod, namespace, container="main", _request_timeout=_TIMEOUT_S))
    )


def _requests(container: Any) -> dict[str, Decimal]:
    given = (container.resources and container.resources.requests) or {}
    return {name: amount(value) for name, value in given.items()}


def _node(one: Any, pods: Iterable[Any]) -> Node:
    has = {name: amount(value) for name, value in one.status.allocatable.items()}
    used = _sum(map(requests_of, pods))
    return Node(one.metadata.name, {name: value - used.get(name, Decimal(0)) for name, value in has.items()})


def _sum(parts: Iterable[Amounts]) -> dict[str, Decimal]:
    total: dict[str, Decimal] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, Decimal(0)) + value
    return total


def _asked(ask: Callable[[Any], T]) -> T | None:
    """The result of `ask`, called with the client of the API's core group; None where the API cannot be asked."""
    import urllib3
    from kubernetes import client, config

    configuration = client.Configuration()
    load = config.load_incluster_config if "KUBERNETES_SERVICE_HOST" in os.environ else config.load_kube_config
    try:
        load(client_configuration=configuration)
        # A cluster that is away is no error here: each retry would only take the timeouts once more.
        configuration.retries = False
        with client.ApiClient(configuration) as api:
            return ask(client.CoreV1Api(api))
    except (config.ConfigException, client.ApiException, urllib3.exceptions.HTTPError, OSError):
        return None
