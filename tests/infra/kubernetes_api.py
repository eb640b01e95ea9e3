"""A Kubernetes API to read from, for the real kubectl and the Python client: a node, its pods, the API's address."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

CONTEXT = "kind-test"
SERVICE = "10.96.0.1"
SERVER = "172.18.0.2"
ABSENT = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}


@contextmanager
def running(folder: Path, allocatable: dict[str, str], requests: list[dict[str, str]]) -> Iterator[Path]:
    """Serve a node with `allocatable` and a pod for each of `requests`; yields a kubeconfig in `folder`."""
    answers = _answers(allocatable, requests)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path.partition("?")[0])
            body = json.dumps(
                found or {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}
            ).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    config = folder / "kubeconfig"
    config.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": CONTEXT,
                "contexts": [{"name": CONTEXT, "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                "users": [{"name": "u", "user": {}}],
            }
        )
    )
    try:
        yield config
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _answers(allocatable: dict[str, str], requests: list[dict[str, str]]) -> dict[str, Any]:
    """Path → answer, in the shapes of Kubernetes 1.34."""
    pods = [
        {
            "metadata": {"name": f"pod-{i}", "namespace": "kubeflow"},
            "spec": {"nodeName": "node", "containers": [{"name": "main", "resources": {"requests": asked}}]},
            "status": {"phase": "Running"},
        }
        for i, asked in enumerate(requests)
    ]
    node = {
        "metadata": {"name": "node"},
        "spec": {},
        "status": {"allocatable": allocatable},
    }
    ports = [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default"},
        "spec": {"clusterIP": SERVICE, "clusterIPs": [SERVICE], "ports": ports, "type": "ClusterIP"},
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [SERVER], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
    }
    return {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group("discovery.k8s.io", "v1")]},
        "/api/v1": _resources("v1", ("services", "Service")),
        "/apis/discovery.k8s.io/v1": _resources("discovery.k8s.io/v1", ("endpointslices", "EndpointSlice")),
        "/api/v1/nodes": {"apiVersion": "v1", "kind": "NodeList", "metadata": {}, "items": [node]},
        "/api/v1/pods": {"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": pods},
        "/api/v1/namespaces/default/services/kubernetes": service,
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices": {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSliceList",
            "metadata": {},
            "items": [endpoints],
        },
    }


def _group(name: str, version: str) -> dict[str, Any]:
    versions = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [versions], "preferredVersion": versions}


def _resources(version: str, *named: tuple[str, str]) -> dict[str, Any]:
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": version,
        "resources": [
            {"name": name, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": ["get", "list"]}
            for name, kind in named
        ],
    }
