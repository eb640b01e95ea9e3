"""A run as KFP 2.17 shows it while Argo works on it, in the shapes of `recorded/`.

The nodes of the workflow are made here as Argo makes them, and both views of the run from those, as KFP does.
"""

import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from components.catalog import TASKS

NEVER = "1970-01-01T00:00:00Z"
_SECONDS = 7
"""How long each step takes, by the server's clock."""
_STATES = {
    "Pending": "PENDING",
    "Running": "RUNNING",
    "Succeeded": "SUCCEEDED",
    "Failed": "FAILED",
    "Error": "FAILED",
    "Skipped": "SKIPPED",
}


class Workflow:
    """One run's workflow; it is told to advance, and writes state and tasks into the run."""

    def __init__(self, run, plan, messages, spec):
        self.run, self.plan, self.messages, self.spec = run, plan, messages, spec
        self.name = f"gapgate-training-{run['run_id'][:5]}"
        self.nodes = {}
        self.is_canceled = False
        self._done = 0
        self._began = datetime.now(UTC).replace(microsecond=0)
        self._is_packaged = plan.get("gate") != "fail" and plan.get("register") != "known"
        self._names = [name for name in TASKS if name != "package" or self._is_packaged]
        run["state_history"] = [{"state": "PENDING"}]

    def cancel(self):
        self.is_canceled = True
        self.run["state"] = "CANCELING"
        self.run["state_history"].append({"state": "CANCELING"})

    def advance(self):
        """One more step has ended, unless it waits or has failed."""
        ends = [self.plan.get(name, "SUCCEEDED") for name in self._names[: self._done]]
        states = ["SUCCEEDED" if end in ("fail", "known", "CACHED") else end for end in ends]
        if self.is_canceled:
            states = ["FAILED" if state == "PENDING" else state for state in states]
        is_stopped = "FAILED" in states or "PENDING" in states
        self.run["state"] = "RUNNING" if self._done else "PENDING"
        if self.is_canceled or "FAILED" in states:
            self.run["state"] = "FAILED"
        elif len(states) == len(self._names) and not is_stopped:
            self.run["state"] = "SUCCEEDED"
        if self.run["state"] in ("FAILED", "SUCCEEDED"):
            self.run["finished_at"] = self._time(len(states))
        elif not is_stopped:
            self._done += 1
        self.nodes = {}
        self._grow(states)
        self.run["run_details"] = {"task_details": [self._task(node) for node in self.nodes.values()]}
        if states:  # an executed step with caching on adds an entry of which only the execution is known
            self.run["run_details"]["task_details"].insert(0, {"run_id": self.run["run_id"], "execution_id": "30"})

    def view(self):
        """The run of the v1beta1 API."""
        manifest = {"metadata": {"name": self.name}, "status": {"phase": self.run["state"].title()}}
        if self.nodes:
            store = {"endpoint": "seaweedfs.kubeflow.svc:9000", "bucket": "mlpipeline", "insecure": True}
            manifest["status"]["artifactRepositoryRef"] = {"artifactRepository": {"archiveLogs": True, "s3": store}}
            manifest["status"]["nodes"] = self.nodes
        return {"run": {"id": self.run["run_id"]}, "pipeline_runtime": {"workflow_manifest": json.dumps(manifest)}}

    def pod(self, step, attempt=0):
        """The name of the pod of a step's try."""
        conditions = ("condition-1", "condition-2") if step == "package" else ()
        inner = "(0).".join((self.name, "root", *conditions, step, "executor"))
        return f"{self.name}-{self._template(step)}-{self._hash(f'{inner}({attempt})')}"

    def _template(self, step):
        labels = len(self._executor(step)["podMetadata"]["labels"])
        return f"metadata-0-{labels}-retry-system-container-impl"

    def _executor(self, step):
        kubernetes = self.spec["platform_spec"]["platforms"]["kubernetes"]
        return kubernetes["deploymentSpec"]["executors"][f"exec-{step}"]

    def _grow(self, states):
        """Make the nodes of steps in these states, each of them twice."""
        if not states:
            return
        phase = self.run["state"].title()
        end = len(states) if "finished_at" in self.run else None
        root = self._twice("", self.name, "entrypoint", "DAG", phase, 0, end)
        self._twice(root, "root-driver", "system-dag-driver", "Pod", "Succeeded", 0, 0)
        root = self._twice(root, "root", "root", "DAG", phase, 0, end)
        for place, (step, state) in enumerate(zip(self._names, states, strict=False)):
            parent = root
            if step == "package":
                for name in ("condition-1", "condition-2"):
                    parent = self._condition(parent, name, state.title(), place)
            self._twice(parent, f"{step}-driver", "system-container-driver", "Pod", "Succeeded", place, place)
            shown, ended = ("Running", None) if state == "PENDING" else (state.title(), place + 1)
            inner = self._twice(parent, step, "executor", "DAG", shown, place, ended)
            if self.plan.get(step) == "CACHED":
                when = "when 'true != true' evaluated false"
                self._node(f"{inner}.executor", self._template(step), "Skipped", "Skipped", place, place, when)
                continue
            self._node(f"{inner}.executor", self._template(step), "Retry", shown, place, ended)
            pod = "Pending" if state == "PENDING" else shown
            said = self.messages.get(step, "main: Error (exit code 1)" if state == "FAILED" else None)
            self._node(f"{inner}.executor(0)", self._template(step), "Pod", pod, place, ended, said)
        omitted = "omitted: depends condition not met"
        for step in self._names[len(states) :] if self.run["state"] == "FAILED" else ():
            for name in (f"{step}-driver", step):
                self._node(f"{root}.{name}", "executor", "Skipped", "Omitted", len(states), len(states), omitted)
        if self.run["state"] == "SUCCEEDED" and not self._is_packaged:
            when = "when 'false != false' evaluated false"
            name = "condition-1"
            if self.plan.get("gate") != "fail":
                root, name = self._condition(root, name, "Succeeded", end), "condition-2"
            self._node(f"{root}.{name}", f"comp-{name}", "Skipped", "Skipped", end, end, when)

    def _condition(self, parent, name, phase, place):
        """The nodes of a condition that holds; returns the path for what is in it."""
        self._twice(parent, f"{name}-driver", "system-dag-driver", "Pod", "Succeeded", place, place)
        return self._twice(parent, name, f"comp-{name}", "DAG", phase, place, place + 1)

    def _twice(self, parent, name, template, kind, phase, start, end):
        """A node, and its first try, whose path is returned."""
        path = f"{parent}.{name}" if parent else name
        self._node(path, template, "Retry", phase, start, end)
        self._node(f"{path}(0)", template, kind, phase, start, end)
        return f"{path}(0)"

    def _node(self, path, template, kind, phase, start, end, message=None):
        identity = self.name if path == self.name else f"{self.name}-{self._hash(path)}"
        self.nodes[identity] = {
            "id": identity,
            "name": path,
            "displayName": path.rpartition(".")[2],
            "type": kind,
            "templateName": template,
            "phase": phase,
            "message": message,
            "startedAt": self._time(start),
            "finishedAt": None if end is None else self._time(end),
        }
        if kind == "Pod" and end is not None:
            key = f"{self.name}/{self.name}-{template}-{self._hash(path)}/main.log"
            self.nodes[identity]["outputs"] = {"artifacts": [{"name": "main-logs", "s3": {"key": key}}]}

    def _hash(self, path):
        return sum(path.encode()) * 7919 + len(path)  # Argo's is FNV-1a; nothing may count on it

    def _task(self, node):
        task = {
            "run_id": self.run["run_id"],
            "task_id": str(uuid4()),
            "display_name": node["displayName"],
            "create_time": self._time(0),
            "start_time": node["startedAt"],
            "end_time": node["finishedAt"] or NEVER,
        }
        if node["phase"] != "Omitted":
            task["state"] = _STATES[node["phase"]]
        return task

    def _time(self, place):
        return (self._began + timedelta(seconds=_SECONDS * place)).isoformat()
