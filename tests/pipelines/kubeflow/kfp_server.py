"""A server that speaks Kubeflow Pipelines' v2beta1 REST API, and of its older APIs the view of a run and the logs.

Every request is held to the published models, and so is every answer. Runs get on by one step with each look at them,
in the shapes that KFP 2.17 gave when `recorded/` was made.
"""

import email
import json
import re
import threading
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

from tests.pipelines.kubeflow.kfp_api import RefusedError, check, predicates, routes
from tests.pipelines.kubeflow.kfp_workflow import Workflow

ROUTES = routes()
RECORDED = Path(__file__).parent / "recorded"
_TYPES = {"STRING": str, "NUMBER_INTEGER": int, "BOOLEAN": bool}


class KfpServer:
    """What the server keeps; tests read it and tell it how to behave."""

    def __init__(self):
        self.experiments, self.pipelines, self.versions, self.runs, self.schedules = {}, {}, {}, {}, {}
        self.workflows, self.recorded, self.logs = {}, {}, {}
        self.calls = []
        """Names of the API's methods that were called and not kept from working, in order."""
        self.faults = {}
        """Method → what befalls its next calls: a status, "drop" (before it works), "lose" (the answer), or seconds."""
        self.plan = {}
        """Step → how it ends in runs to come; `gate: fail` and `register: known` pass by `package`, PENDING waits,
        CACHED has no pod."""
        self.messages = {}
        """Step → Argo's message on its pod in those runs."""
        self.token = self.cookie = self.version = ""
        self.has_many_users = False
        self.has_logs = True
        self.log_of_ui = None
        """What the UI server answers where it is asked for a log; None if there is no UI server."""
        self.archived = {}
        """Key → log, of Argo's archive, which the UI server reads; a key is `BUCKET/WORKFLOW/POD/main.log`."""
        self.page_limit = 100
        self.is_web_page = False
        self.lock = threading.Lock()

    def get_healthz(self, query, body):
        health = {"multi_user": self.has_many_users, "pipeline_store": "database"}
        return health | ({"tag_name": self.version, "commit_sha": "unknown"} if self.version else {})

    def list_experiments(self, query, body):
        return self._page("experiments", self.experiments, query)

    def create_experiment(self, query, body):
        return self._add(self.experiments, "experiment_id", self._named(body))

    def list_pipelines(self, query, body):
        return self._page("pipelines", self.pipelines, query)

    def create_pipeline(self, query, body):
        return self._add(self.pipelines, "pipeline_id", self._unique(self.pipelines, self._named(body)))

    def list_pipeline_versions(self, query, body, pipeline_id):
        mine = {key: one for key, one in self.versions.items() if one["pipeline_id"] == pipeline_id}
        return self._page("pipeline_versions", mine, query)

    def get_pipeline_version(self, query, body, pipeline_id, version_id):
        return self._get(self.versions, version_id)

    def upload_pipeline_version(self, query, body):
        self._get(self.pipelines, query["pipelineid"])
        documents = list(yaml.load_all(body, yaml.CSafeLoader))
        json_format.ParseDict(documents[0], PipelineSpec())
        json_format.ParseDict(documents[1] if len(documents) > 1 else {}, PlatformSpec())
        made = {
            "pipeline_id": query["pipelineid"],
            "display_name": query["name"],
            "name": query["name"],
            "description": query.get("description", ""),
            "pipeline_spec": {"pipeline_spec": documents[0], "platform_spec": (documents[1:] or [{}])[0]},
        }
        mine = {key: one for key, one in self.versions.items() if one["pipeline_id"] == query["pipelineid"]}
        return self._add(self.versions, "pipeline_version_id", self._unique(mine, made))

    def create_run(self, query, body):
        self._startable(body)
        run = self._add(self.runs, "run_id", body | {"state": "PENDING", "storage_state": "AVAILABLE"})
        reference = run["pipeline_version_reference"]
        spec = self.versions[reference["pipeline_version_id"]]["pipeline_spec"]
        self.workflows[run["run_id"]] = Workflow(run, dict(self.plan), dict(self.messages), spec)
        return run

    def get_run(self, query, body, run_id):
        run = self._get(self.runs, run_id)
        if run_id in self.workflows:  # a recorded run stays as it is
            self.workflows[run_id].advance()
        return run

    def record(self, name):
        """Add a run that a real KFP has shown; returns its id."""
        content = json.loads((RECORDED / f"{name}.json").read_text())
        run = content["v2beta1"]
        workflow = content["v1beta1"]["pipeline_runtime"]["workflow_manifest"]
        content["v1beta1"]["pipeline_runtime"]["workflow_manifest"] = json.dumps(workflow)
        self.recorded[run["run_id"]] = content["v1beta1"]
        self.runs[run["run_id"]] = run
        for node in workflow["status"]["nodes"].values():
            if content["log"] and node["type"] == "Pod" and ".ingest(0).executor(" in node["name"]:
                pod = f"{workflow['metadata']['name']}-{node['templateName']}-{node['id'].rpartition('-')[2]}"
                self.logs[pod] = content["log"]
        return run["run_id"]

    def list_runs(self, query, body):
        return self._page("runs", self.runs, query)

    def terminate_run(self, query, body, run_id):
        run = self._get(self.runs, run_id)
        if run.get("state") == "CANCELING":
            raise RefusedError(400, f"Invalid input error: Failed to terminate a run {run_id}. Row not found")
        if run_id not in self.workflows:
            run["state"] = "CANCELING"
            raise RefusedError(500, "Failed to terminate workflow: workflows.argoproj.io not found")
        self.workflows[run_id].cancel()
        return {}

    def create_recurring_run(self, query, body):
        self._startable(body)
        if not 1 <= int(body.get("max_concurrency", 0)) <= 10:
            raise RefusedError(400, "Max concurrency of a recurring run must be at least 1 and at most 10")
        trigger = body.get("trigger", {})
        if cron := trigger.get("cron_schedule", {}).get("cron"):
            if len(cron.split()) != 6 and not cron.startswith("@"):
                raise RefusedError(400, f"Schedule cron is not a supported format: {cron}")
        elif int(trigger.get("periodic_schedule", {}).get("interval_second", 0)) < 1:
            raise RefusedError(400, "Found invalid period schedule interval")
        status = "ENABLED" if body.get("mode") == "ENABLE" else "DISABLED"
        return self._add(self.schedules, "recurring_run_id", body | {"status": status})

    def list_recurring_runs(self, query, body):
        answer = self._page("recurring_runs", self.schedules, query)
        return {name.replace("recurring_runs", "recurringRuns"): value for name, value in answer.items()}

    def delete_recurring_run(self, query, body, recurring_run_id):
        self._get(self.schedules, recurring_run_id)
        del self.schedules[recurring_run_id]
        return {}

    def _home(self, one):
        return one.get("namespace") or self.experiments.get(one.get("experiment_id"), {}).get("namespace", "")

    def _startable(self, body):
        self._named(body)
        self._get(self.experiments, body["experiment_id"])
        version = self._get(self.versions, body["pipeline_version_reference"]["pipeline_version_id"])
        known = version["pipeline_spec"]["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
        for name, value in body["runtime_config"]["parameters"].items():
            if name not in known or type(value) is not _TYPES[known[name]["parameterType"]]:
                raise RefusedError(400, f"parameter {name} is unknown, or not {known.get(name)}")

    def _named(self, body):
        if not body.get("display_name"):
            raise RefusedError(400, "display_name is empty")
        return body

    def _unique(self, known, body):
        key = (body["display_name"], self._home(body))
        if key in [(one["display_name"], self._home(one)) for one in known.values()]:
            raise RefusedError(409, f"{body['display_name']} already exists")
        return body

    def _get(self, known, identity):
        if identity not in known:
            raise RefusedError(404, f"ResourceNotFoundError: {identity} not found")
        return known[identity]

    def _add(self, known, key, body):
        identity = str(uuid.uuid4())
        known[identity] = body | {key: identity, "created_at": datetime.now(UTC).isoformat()}
        return known[identity]

    def _page(self, kind, known, query):
        if query.get("namespace") and not self.has_many_users:
            raise RefusedError(400, "In single-user mode, a list cannot be filtered by namespace")
        where = query.get("experiment_id") or query.get("namespace")
        if self.has_many_users and kind not in ("pipelines", "pipeline_versions") and not where:
            raise RefusedError(400, "In multi-user mode, a list must be filtered by namespace")
        found = [one for one in known.values() if query.get("namespace", self._home(one)) == self._home(one)]
        for predicate in predicates(query.get("filter")):
            assert predicate["operation"] == "EQUALS"
            found = [one for one in found if one.get(predicate["key"]) == predicate["string_value"]]
        if wanted := query.get("experiment_id"):
            found = [one for one in found if one["experiment_id"] == wanted]
        key, _, direction = (query.get("sort_by") or "created_at").partition(" ")
        found.sort(key=lambda one: one[key], reverse=direction == "desc")
        start = int(query.get("page_token") or 0)
        end = start + min(int(query.get("page_size", 10)), self.page_limit)
        answer = {kind: found[start:end], "total_size": len(found)}
        return answer | ({"next_page_token": str(end)} if end < len(found) else {})


@contextmanager
def serving():
    """A server for the time of the block, with its `url`."""
    state = KfpServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"state": state}))
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state = None

    def do_GET(self):
        self._answer("GET")

    def do_POST(self):
        self._answer("POST")

    def do_DELETE(self):
        self._answer("DELETE")

    def log_message(self, *arguments):
        pass

    def _answer(self, method):
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        try:
            self._admit()
            if self.state.is_web_page:
                return self._send(200, "<html>Sign in</html>", "text/html")
            if match := re.fullmatch("/apis/v1beta1/runs/([^/]+)", parts.path):
                return self._send(200, json.dumps(self._view(match[1])))
            if match := re.fullmatch("/apis/v1alpha1/runs/[^/]+/nodes/([^/]+)/log", parts.path):
                return self._log(match[1])
            if parts.path == "/k8s/pod/logs":
                if self.state.log_of_ui is None:
                    raise RefusedError(404, "Not Found")
                return self._send(200, self.state.log_of_ui, "text/plain")
            if parts.path == "/artifacts/get" and (self.state.archived or self.state.log_of_ui is not None):
                return self._archived(query)
            if parts.path == "/apis/v2beta1/healthz" and self.state.version:
                return self._send(200, json.dumps(self.state.get_healthz(query, body)))
            self._send(200, json.dumps(self._call(method, parts.path, query, body)))
        except RefusedError as refusal:
            code = {404: 5}.get(refusal.status, 3)
            answer = {"error": str(refusal), "code": code, "message": str(refusal), "details": []}
            self._send(refusal.status, json.dumps(answer))
        except ConnectionAbortedError:
            self.close_connection = True

    def _admit(self):
        state = self.state
        if state.token and self.headers.get("Authorization") != f"Bearer {state.token}":
            raise RefusedError(403 if self.headers.get("Authorization") else 401, "the token is missing or another's")
        if state.cookie and self.headers.get("Cookie") != state.cookie:
            raise RefusedError(401, "no session")

    def _call(self, method, path, query, body):
        for route in ROUTES:
            if route.method == method and (match := route.path.fullmatch(path)):
                break
        else:
            raise RefusedError(404, f"no {method} {path}")
        if unknown := set(query) - route.query:
            raise RefusedError(400, f"{route.name} takes no {sorted(unknown)}")
        fault = self._befall(route.name)
        if route.body:
            body = json.loads(body)
            check(body, route.body, route.name)
        elif body:
            body = self._file(body)
        with self.state.lock:  # names are unique, as by the constraints of KFP's database
            answer = getattr(self.state, route.name)(query, body, *map(unquote, match.groups()))
        self.state.calls.append(route.name)
        check(answer, route.answer, f"answer of {route.name}")
        if fault == "lose":
            raise ConnectionAbortedError
        return answer

    def _befall(self, name):
        fault = self.state.faults[name].pop(0) if self.state.faults.get(name) else None
        if isinstance(fault, int):
            raise RefusedError(fault, "as told")
        if fault == "drop":
            raise ConnectionAbortedError
        if isinstance(fault, threading.Event):
            fault.wait(60)
        return fault

    def _file(self, body):
        header = f"Content-Type: {self.headers['Content-Type']}\n\n".encode()
        (part,) = email.message_from_bytes(header + body).get_payload()
        assert part.get_param("name", header="content-disposition") == "uploadfile"
        return part.get_payload(decode=True).decode()

    def _view(self, run_id):
        self._befall("view")
        self.state._get(self.state.runs, run_id)
        return self.state.recorded.get(run_id) or self.state.workflows[run_id].view()

    def _log(self, pod):
        if not self.state.has_logs or pod not in self.state.logs:
            # As a real one: the status is sent before the pod is looked for.
            return self._send(200, json.dumps({"error_message": f"Failed to read logs from pod {pod}"}))
        self._send(200, self.state.logs[pod], "text/plain")

    def _archived(self, query):
        assert query["namespace"] == "kubeflow"
        text = self.state.archived.get(f"{query['bucket']}/{query['key']}") if query["source"] == "minio" else None
        if text is None:
            return self._send(
                500, "Failed to get object in bucket: S3Error: The specified key does not exist.", "text/html"
            )
        self._send(200, text, "text/plain")

    def _send(self, status, text, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())
