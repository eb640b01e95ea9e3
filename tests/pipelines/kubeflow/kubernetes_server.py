"""The few answers of a Kubernetes API server that the commands for a cluster ask for, behind a kubeconfig."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import yaml


def node(name, **allocatable):
    """A node; `allocatable` in Kubernetes' notation, with `gpu` for nvidia.com/gpu."""
    amounts = {"nvidia.com/gpu" if key == "gpu" else key: value for key, value in allocatable.items()}
    return {"metadata": {"name": name}, "spec": {}, "status": {"allocatable": amounts}}


def pod(name, on="", run="", init=(), deleted="", **requests):
    """A running pod with one container, on a node, of a run and being deleted since a time where they are given."""
    labels = {"pipeline/runid": run} if run else {}
    inits = [{"name": f"init-{place}", "resources": {"requests": one}} for place, one in enumerate(init)]
    spec = {"containers": [{"name": "main", "resources": {"requests": requests}}], "initContainers": inits}
    if on:
        spec["nodeName"] = on
    metadata = {"name": name, "namespace": "kubeflow", "labels": labels}
    if deleted:
        metadata["deletionTimestamp"] = deleted
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Running" if on else "Pending"}}


@contextmanager
def kubernetes(folder, nodes=(), pods=(), logs=None, accounts=("gapgate-pipeline",)):
    """A server for the time of the block; returns the path of a kubeconfig that leads to it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            parts = urlsplit(self.path)
            found = self._find(parts.path, parse_qs(parts.query))
            kind, body = ("text/plain", found) if isinstance(found, str) else ("application/json", json.dumps(found))
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body.encode())

        def _find(self, path, query):
            name = path.rpartition("/")[2]
            if path == "/api/v1/nodes":
                return {"kind": "NodeList", "apiVersion": "v1", "items": list(nodes)}
            if path == "/api/v1/pods":
                selector = query.get("labelSelector", [""])[0]
                shown = [one for one in pods if not selector or selector.lstrip("!") not in one["metadata"]["labels"]]
                return {"kind": "PodList", "apiVersion": "v1", "items": shown}
            if "/serviceaccounts/" in path:
                return {"metadata": {"name": name}} if name in accounts else None
            if path.endswith("/log"):
                return (logs or {}).get(path.split("/")[-2])
            return next((one for one in pods if one["metadata"]["name"] == name), None)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "test", "user": {}}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    try:
        yield path
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
