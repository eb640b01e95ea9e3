"""The platform on a real cluster, as its user reaches it: `gapgate`, kubectl, MLflow and the service."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
import yaml

from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
KFP, GAPGATE = "kubeflow", "gapgate"


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    seconds: float

    @property
    def run(self) -> str:
        """Id of the run that the command started or followed."""
        return re.search(r"runs/details/([0-9a-f-]{36})", self.out)[1]


@dataclass
class Platform:
    """What the tests have in hand."""

    host: str
    folder: Path
    cluster_file: Path
    mlflow_url: str = ""
    serve_url: str = ""

    def start(self, *arguments: object, cluster: Path | None = None) -> subprocess.Popen[str]:
        """Start a `gapgate` command; its output is read by `wait`."""
        command = [sys.executable, "-c", "from cli import main; main()", *map(str, arguments)]
        if arguments[0] in ("submit", "schedule", "runs", "logs", "cancel"):
            command += ["--cluster", str(cluster or self.cluster_file)]
        environment = os.environ | {
            "KF_PIPELINES_ENDPOINT": self.host,
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            "GAPGATE_HOME": str(self.folder / "home"),
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
        }
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def lines_until(self, wanted: str, *arguments: object, count: int = 1, cluster: Path | None = None) -> list[str]:
        """Lines of a `gapgate` command up to the one that has `wanted` for the `count`th time; Ctrl-C ends it then."""
        lines: list[str] = []
        with self.start(*arguments, cluster=cluster) as process:
            for line in process.stdout or ():
                lines.append(line)
                if sum(wanted in each for each in lines) == count:
                    break
            process.send_signal(signal.SIGINT)
        return lines

    def gapgate(self, *arguments: object, cluster: Path | None = None, timeout_s: float = 1200) -> Done:
        """Run a `gapgate` command to its end."""
        began = time.monotonic()
        process = self.start(*arguments, cluster=cluster)
        try:
            out, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
            raise AssertionError(f"gapgate {arguments} has not ended:\n{out}") from None
        return Done(process.returncode, out, time.monotonic() - began)

    def submit(self, *arguments: object, **options: Any) -> Done:
        """Run the pipeline on digits and follow it."""
        return self.gapgate("submit", "--data-source", "digits", "--wait", *arguments, **options)

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """Run kubectl; its output."""
        done = subprocess.run(["kubectl", *arguments], input=text, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def pods(self, run: str, step: str = "") -> list[str]:
        """Names of a run's pods that did a step's work, and not the driver's."""
        labels = f"pipeline/runid={run}," + (f"gapgate/step={step}" if step else "gapgate/step")
        return self.kubectl("-n", KFP, "get", "pods", "-l", labels, "-o", "name").split()

    def uid(self, pod: str) -> str:
        """Kubernetes' own id of a pod, which one that is made again does not have."""
        return self.kubectl("-n", KFP, "get", pod, "-o", "jsonpath={.metadata.uid}")

    def running(self, run: str, step: str) -> str:
        """Name of the pod of a step that runs now; empty if there is none."""
        labels = f"pipeline/runid={run},gapgate/step={step}"
        selector = ("-l", labels, "--field-selector", "status.phase=Running")
        return self.kubectl("-n", KFP, "get", "pods", *selector, "-o", "name").strip()

    def seconds_since_pod(self, run: str, step: str) -> float:
        """Seconds since the newest pod of a step was made, if the cluster's clock goes with ours."""
        labels = (
            "-l",
            f"pipeline/runid={run},gapgate/step={step}",
            "-o",
            "jsonpath={.items[*].metadata.creationTimestamp}",
        )
        made = max(self.kubectl("-n", KFP, "get", "pods", *labels).split())
        return (datetime.now(UTC) - datetime.fromisoformat(made)).total_seconds()

    def changed(self, change: Callable[[dict[str, Any]], None]) -> Path:
        """A copy of the cluster file with a change."""
        content = yaml.safe_load(self.cluster_file.read_text())
        change(content)
        path = self.folder / f"cluster-{time.monotonic_ns()}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def mlflow(self) -> Any:
        """A client of the cluster's MLflow."""
        from mlflow import MlflowClient

        return MlflowClient(self.mlflow_url)

    def mlflow_run(self, run: str) -> Any:
        """The MLflow run of a pipeline run."""
        client = self.mlflow()
        experiments = [one.experiment_id for one in client.search_experiments()]
        (found,) = client.search_runs(experiments, f"tags.`gapgate.run` = '{run}'")
        return found

    def champion(self) -> str:
        """Version of the champion; empty if there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self.mlflow().get_model_version_by_alias("gapgate", "champion").version)
        except MlflowException:
            return ""

    def key(self) -> str:
        """Key of the service."""
        return self.secret(GAPGATE, "gapgate-metrics", "key")

    def secret(self, namespace: str, name: str, key: str) -> str:
        """The value of a key of a Secret."""
        value = self.kubectl("-n", namespace, "get", "secret", name, "-o", f"jsonpath={{.data.{key}}}")
        return base64.b64decode(value).decode()

    def predict(self, image: bytes) -> requests.Response:
        """Ask the service about a PNG."""
        files = {"image": ("image.png", image, "image/png")}
        headers = {"X-API-Key": self.key(), "Connection": "close"}
        return requests.post(f"{self.serve_url}/v1/predict", files=files, headers=headers, timeout=10)

    def served_version(self) -> str:
        """Version of the model that the service answers with; empty while it has none."""
        headers = {"X-API-Key": self.key(), "Connection": "close"}
        answer = requests.get(f"{self.serve_url}/v1/model", headers=headers, timeout=10)
        return str(answer.json()["version"]) if answer.ok else ""


@contextmanager
def forwarded(namespace: str, service: str, port: int) -> Iterator[str]:
    """The URL of a service for the time of the block, through `kubectl port-forward`, which is begun again when its pod
    has gone."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        local = free.getsockname()[1]
    loop = f"while sleep 0.2; do kubectl -n {namespace} port-forward svc/{service} {local}:{port}; done"
    process = subprocess.Popen(
        ["bash", "-c", loop], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield f"http://127.0.0.1:{local}"
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def until(condition: Callable[[], object], seconds: float = 300) -> float:
    """Wait for a condition whose asking may fail meanwhile, as while a pod is replaced; returns the seconds that it
    took."""
    began = time.monotonic()

    def holds() -> bool:
        try:
            return bool(condition())
        except (AssertionError, OSError, requests.RequestException):
            return False

    wait_for(holds, seconds)
    return time.monotonic() - began


def run_at_once(commands: Sequence[Callable[[], Done]]) -> list[Done]:
    """Run commands side by side."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(commands)) as pool:
        return [one.result() for one in [pool.submit(command) for command in commands]]
