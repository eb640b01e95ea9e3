"""Who finds whom in the rendered overlays: selectors, ports, names, and what the network policies let through."""

from __future__ import annotations

import importlib
import ipaddress
import re
from typing import Any

import pytest
import yaml

from serving.options import Options
from tests.infra.rendered import (
    INFRA,
    OVERLAYS,
    containers,
    environment,
    of_kind,
    one,
    pod_templates,
    quantity,
    render,
    selects,
    title,
)

# What others bring: the labels of pods and namespaces that our policies name, and where they come from.
FOREIGN_NAMESPACES = {"kube-system", "openshift-dns", "kubeflow", "ingress-nginx", "monitoring"}
FOREIGN_PODS: list[dict[str, str]] = [
    {"k8s-app": "kube-dns"},  # kubeadm, kind, minikube and the managed clusters label CoreDNS so
    {"dns.operator.openshift.io/daemonset-dns": "default"},  # OpenShift's DNS operator
    {"app": "ml-pipeline"},  # these three: manifests/kustomize of Kubeflow Pipelines 2.17.0
    {"component": "metadata-grpc-server"},
    {"app": "seaweedfs"},
    {"app.kubernetes.io/name": "prometheus"},  # Prometheus Operator
]
STEP = {"app.kubernetes.io/part-of": "gapgate", "pipelines.kubeflow.org/v2_component": "true"}
"""Labels of a step's pod: ours by kfp-kubernetes, and KFP's own (backend/src/v2/compiler/argocompiler/argo.go)."""
_PIPELINE = yaml.safe_load((INFRA / "pipeline.yaml").read_text())
STEPS = [STEP | _PIPELINE["steps"][name].get("labels", {}) for name in ("ingest", "train")]

both = pytest.mark.parametrize("overlay", OVERLAYS)


@both
def test_selectors_of_services_budgets_and_spreads_match_pods(overlay: str) -> None:
    templates = [template["metadata"]["labels"] for _, template in pod_templates(overlay)]
    selectors = [{"matchLabels": found["spec"]["selector"]} for found in of_kind(overlay, "Service")]
    selectors += [found["spec"]["selector"] for found in of_kind(overlay, "PodDisruptionBudget")]
    for _, template in pod_templates(overlay):
        selectors += [each["labelSelector"] for each in template["spec"].get("topologySpreadConstraints", [])]
    assert len(selectors) >= 5
    for selector in selectors:
        assert sum(selects(selector, labels) for labels in templates) == 1, selector
    for found in of_kind(overlay, "Deployment", "StatefulSet"):
        assert selects(found["spec"]["selector"], found["spec"]["template"]["metadata"]["labels"]), title(found)


@both
def test_every_network_policy_selects_pods_and_peers_that_exist(overlay: str) -> None:
    own = [template["metadata"]["labels"] for _, template in pod_templates(overlay)]
    for found in of_kind(overlay, "NetworkPolicy"):
        here = own if found["metadata"]["namespace"] == "gapgate" else STEPS
        spec = found["spec"]
        assert any(selects(spec["podSelector"], labels) for labels in here), title(found)
        for peer in _peers(spec):
            if "ipBlock" in peer:
                ipaddress.ip_network(peer["ipBlock"]["cidr"])
                continue
            if peer.get("namespaceSelector"):
                name = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
                pods = own if name == "gapgate" else FOREIGN_PODS
                assert name in FOREIGN_NAMESPACES | {"gapgate"}, title(found)
            else:
                pods = STEPS if "namespaceSelector" in peer else here
            if "podSelector" in peer:
                assert any(selects(peer["podSelector"], labels) for labels in pods), (title(found), peer)


@both
def test_all_traffic_is_denied_but_what_is_named(overlay: str) -> None:
    assert one(overlay, "NetworkPolicy", "deny-all")["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }
    for found in of_kind(overlay, "NetworkPolicy"):
        for direction in ("ingress", "egress"):
            for rule in found["spec"].get(direction, []):
                assert rule["ports"], title(found)
                assert rule["from" if direction == "ingress" else "to"], title(found)


@pytest.mark.parametrize(
    ("overlay", "client", "server", "port"),
    [("production", "serve", "mlflow", 5000), ("local", "serve", "mlflow", 5000)]
    + [("local", f"mlflow{part}", "postgres", 5432) for part in ("", "-migrate", "-backup", "-restore")],
)
def test_what_must_speak_may(overlay: str, client: str, server: str, port: int) -> None:
    pods = {
        template["metadata"]["labels"]["app.kubernetes.io/name"]: template for _, template in pod_templates(overlay)
    }
    at_client, at_server = (_policies(overlay, pods[name]) for name in (client, server))
    assert any(_allows(p, "egress", pods[server], pods[server], port) for p in at_client)
    assert any(_allows(p, "ingress", pods[client], pods[server], port) for p in at_server)
    assert not any(_allows(p, "ingress", pods["serve"], pods[server], port) for p in at_server) or client == "serve"


@both
def test_the_job_that_closes_runs_reaches_what_a_step_reaches(overlay: str) -> None:
    job = one(overlay, "CronJob", "gapgate-close-runs")
    template = job["spec"]["jobTemplate"]["spec"]["template"]
    assert STEP.items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    given = environment(container)
    assert given["MLFLOW_TRACKING_URI"] == _PIPELINE["tracking_uri"]
    (volume,) = (each for each in template["spec"]["volumes"] if "persistentVolumeClaim" in each)
    assert volume["persistentVolumeClaim"]["claimName"] == _PIPELINE["workspace"]["claim"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts[volume["name"]] == given["GAPGATE_HOME"]
    *_, module = container["command"]
    assert callable(importlib.import_module(module).main)


@both
def test_only_ingest_reaches_the_world(overlay: str) -> None:
    world = [
        found
        for found in of_kind(overlay, "NetworkPolicy")
        if found["metadata"]["namespace"] == "kubeflow" and {"ipBlock": {"cidr": "0.0.0.0/0"}} in _peers(found["spec"])
    ]
    ingest, train = STEPS
    assert [selects(found["spec"]["podSelector"], ingest) for found in world] == [True]
    assert [selects(found["spec"]["podSelector"], train) for found in world] == [False]


@both
def test_only_the_rule_for_the_kubernetes_api_leads_a_step_to_addresses(overlay: str) -> None:
    _, train = STEPS
    by_address = [
        found["metadata"]["name"]
        for found in of_kind(overlay, "NetworkPolicy")
        if found["metadata"]["namespace"] == "kubeflow"
        and selects(found["spec"]["podSelector"], train)
        and any("ipBlock" in peer for peer in _peers(found["spec"]))
    ]
    assert by_address == ["gapgate-kubernetes-api"]


def test_in_production_the_kubernetes_api_and_the_port_of_the_bucket_are_lines_of_the_overlay() -> None:
    overlay = (INFRA / "kubernetes/overlays/production/kustomization.yaml").read_text()
    assert "path: /spec/egress/0/ports/0/port, value: 443" in overlay
    (rule,) = one("production", "NetworkPolicy", "gapgate-kubernetes-api")["spec"]["egress"]
    assert rule["to"] == [{"ipBlock": {"cidr": "192.0.2.1/32"}}]


@pytest.mark.parametrize(
    ("component", "peer", "port"),
    [
        ("dns-node-local", {"ipBlock": {"cidr": "169.254.20.10/32"}}, 53),
        ("dns-openshift", {"kubernetes.io/metadata.name": "openshift-dns"}, 5353),
    ],
)
def test_other_dns_is_reached_by_steps_and_by_servers(component: str, peer: dict[str, Any], port: int) -> None:
    for name in ("dns", "gapgate-steps"):
        *_, rule = one(f"production+{component}", "NetworkPolicy", name)["spec"]["egress"]
        (to,) = rule["to"]
        assert peer == to or peer == to["namespaceSelector"]["matchLabels"]
        assert rule["ports"] == [{"protocol": protocol, "port": port} for protocol in ("UDP", "TCP")]


@both
def test_ports_lead_from_door_to_process(overlay: str) -> None:
    for service in of_kind(overlay, "Service"):
        pods = [
            t
            for _, t in pod_templates(overlay)
            if service["spec"]["selector"].items() <= t["metadata"]["labels"].items()
        ]
        for port in service["spec"]["ports"]:
            assert _port_number(pods[0], port["targetPort"]) == port["port"], title(service)
    for where, container, _ in containers(overlay):
        names = {port["name"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if "httpGet" in container.get(probe, {}):
                assert container[probe]["httpGet"]["port"] in names, where
    for name in ("serve", "mlflow"):
        pod = one(overlay, "Deployment", name)["spec"]["template"]
        command = [*pod["spec"]["containers"][0]["command"], *pod["spec"]["containers"][0].get("args", [])]
        assert int(command[command.index("--port") + 1]) == _port_number(pod, "http")
        assert command[command.index("--host") + 1] == "0.0.0.0"


def test_the_ingress_and_the_monitor_lead_to_the_prediction_service() -> None:
    service = one("production", "Service", "serve")
    names = {port["name"] for port in service["spec"]["ports"]}
    (rule,) = one("production", "Ingress", "serve")["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": "serve", "port": {"name": "http"}}
    assert backend["port"]["name"] in names
    monitor = one("production+monitoring", "ServiceMonitor", "gapgate-serve")["spec"]
    assert selects(monitor["selector"], service["metadata"]["labels"])
    assert monitor["endpoints"][0]["port"] in names
    limit = one("production", "Ingress", "serve")["metadata"]["annotations"][
        "nginx.ingress.kubernetes.io/proxy-body-size"
    ]
    assert quantity(limit.replace("m", "Mi")) == Options().max_body_bytes


@both
def test_names_of_services_in_addresses_exist(overlay: str) -> None:
    services = {(found["metadata"]["name"], found["metadata"]["namespace"]) for found in of_kind(overlay, "Service")}
    text = yaml.safe_dump_all(render(overlay)) + ((INFRA / "up").read_text() if overlay == "local" else "")
    named = {(name, namespace) for name, namespace in re.findall(r"[/@]([a-z-]+)\.(gapgate)\.svc", text)}
    assert ("mlflow", "gapgate") in named
    assert named <= services


def _peers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        peer
        for direction, side in (("ingress", "from"), ("egress", "to"))
        for rule in spec.get(direction, [])
        for peer in rule[side]
    ]


def _policies(overlay: str, template: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        found["spec"]
        for found in of_kind(overlay, "NetworkPolicy")
        if found["metadata"]["namespace"] == "gapgate"
        and selects(found["spec"]["podSelector"], template["metadata"]["labels"])
    ]


def _allows(spec: dict[str, Any], direction: str, peer: dict[str, Any], server: dict[str, Any], port: int) -> bool:
    """Whether a policy of one namespace lets a pod speak with `peer` at a port of `server`."""
    side = "from" if direction == "ingress" else "to"
    return any(
        selects(each.get("podSelector", {}), peer["metadata"]["labels"])
        and any(_port_number(server, open_port["port"]) == port for open_port in rule["ports"])
        for rule in spec.get(direction, [])
        for each in rule[side]
        if not each.keys() & {"ipBlock", "namespaceSelector"}
    )


def _port_number(template: dict[str, Any], port: int | str) -> int | None:
    """A port's number; None where the pod has none of that name."""
    if isinstance(port, int):
        return port
    ports = {each["name"]: each["containerPort"] for c in template["spec"]["containers"] for each in c.get("ports", [])}
    return ports.get(port)


@both
def test_what_the_settings_of_runs_name_is_there(overlay: str) -> None:
    there = {title(found) for found in render(overlay) if found["metadata"].get("namespace") == "kubeflow"}
    assert f"PersistentVolumeClaim/{_PIPELINE['workspace']['claim']}" in there
    assert f"ServiceAccount/{_PIPELINE['service_account']}" in there
    page = (INFRA.parent / "docs" / "kubernetes.md").read_text()
    for step in _PIPELINE["steps"].values():
        for secret, keys in (step.get("secrets", {}) | step.get("optional_secrets", {})).items():
            (command,) = re.findall(rf"-n kubeflow create secret generic {secret} (.*)", page)
            assert all(f"--from-literal={key}=" in command for key in keys)
    service = one(overlay, "Service", "mlflow")
    address = f"http://mlflow.{service['metadata']['namespace']}.svc:{service['spec']['ports'][0]['port']}"
    serve = one(overlay, "Deployment", "serve")["spec"]["template"]["spec"]["containers"][0]
    assert _PIPELINE["tracking_uri"] == environment(serve)["MLFLOW_TRACKING_URI"] == address
