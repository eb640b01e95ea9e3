"""A run as KFP shows it while Argo works on it."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from components.catalog import STEPS

NEVER = "1970-01-01T00:00:00Z"
_SECONDS = 7
"""How long each step takes, by the server's clock."""


class Workflow:
    """One run's workflow; it is told to advance, and writes states and tasks into the run."""

    def __init__(self, run, plan, spec):
        self.run, self.plan, self.spec = run, plan, spec
        self.name = f"gapgate-training-{run['run_id'][:5]}"
        self.is_canceled = False
        self._done = 0
        self._began = datetime.now(UTC).replace(microsecond=0)
        self._names = [name for name in STEPS if name != "package" or plan.get("gate") != "fail"]

    def cancel(self):
        self.is_canceled = True

    def advance(self):
        """One more step has ended, unless it waits or has failed."""
        ends = [self.plan.get(name, "SUCCEEDED") for name in self._names[: self._done]]
        states = ["SUCCEEDED" if end == "fail" else end for end in ends]
        is_stopped = "FAILED" in states or "PENDING" in states
        self.run["state"] = "RUNNING" if self._done else "PENDING"
        if self.is_canceled:
            self.run["state"] = "CANCELED"
        elif "FAILED" in states:
            self.run["state"] = "FAILED"
        elif len(states) == len(self._names) and not is_stopped:
            self.run["state"] = "SUCCEEDED"
        if self.run["state"] in ("FAILED", "SUCCEEDED", "CANCELED"):
            self.run["finished_at"] = self._time(len(states))
        elif not is_stopped:
            self._done += 1
        self.run["run_details"] = {"task_details": list(self._tasks(states))}

    def pod(self, step, attempt=0):
        """The name of a step's pod, as Argo makes it; `fnv` is held to a recorded run by a test."""
        from pipelines.kubeflow.run_status import fnv1a

        path = "root.condition-1.package" if step == "package" else f"root.{step}"
        labels = len(self._executor(step)["podMetadata"]["labels"])
        node = f"{self.name}.{path}.executor({attempt})"
        return f"{self.name}-metadata-0-{labels}-retry-system-container-impl-{fnv1a(node)}"

    def _executor(self, step):
        kubernetes = self.spec["platform_spec"]["platforms"]["kubernetes"]
        return kubernetes["deploymentSpec"]["executors"][f"exec-{step}"]

    def _tasks(self, states):
        if not states:
            return
        is_ended = "finished_at" in self.run
        yield self._task(self.name, self.run["state"], 0, len(states) if is_ended else None, f"{self.name}-1")
        yield self._task("root-driver", "SUCCEEDED", 0, 0, f"{self.name}-2")
        yield self._task("root", "RUNNING", 0, None, f"{self.name}-3")
        for place, (step, state) in enumerate(zip(self._names, states, strict=False)):
            shown = "RUNNING" if state == "PENDING" else state
            end = None if state == "PENDING" else place + 1
            yield self._task(f"{step}-driver", "SUCCEEDED", place, place, f"{self.name}-4")
            yield self._task(step, shown, place, end, f"{self.name}-5")
            yield self._task("executor", shown, place, end, f"{self.name}-6")
            yield self._task("executor(0)", state, place, end)
        for step in self._names[len(states) :] if self.run["state"] == "FAILED" else ():
            yield self._task(step, None, len(states), len(states))  # omitted: KFP gives no state
        if self.run["state"] == "SUCCEEDED" and self.plan.get("gate") == "fail":
            yield self._task("condition-1", "SKIPPED", len(states), len(states))

    def _task(self, name, state, start, end, child=None):
        task = {
            "run_id": self.run["run_id"],
            "task_id": str(uuid4()),
            "display_name": name,
            "create_time": self._time(0),
            "start_time": self._time(start),
            "end_time": NEVER if end is None else self._time(end),
        }
        if state:
            task["state"] = state
        return task | ({"child_tasks": [{"pod_name": child}]} if child else {})

    def _time(self, place):
        return (self._began + timedelta(seconds=_SECONDS * place)).isoformat()
