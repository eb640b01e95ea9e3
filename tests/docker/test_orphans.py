"""A step's container after the process that runs the pipeline was killed."""

import os
import signal
import subprocess
import sys
from contextlib import closing

import pytest

from tests.waiting import wait_for

docker = pytest.importorskip("docker")

RUN = """
import sys
import docker
from components.platform.run_context import RunContext
from gapgate.settings.sections import Settings
from pipelines.local.docker_runner import Steps, _Containers
print("ready", flush=True)
_Containers(docker.from_env(), Steps(Settings(), RunContext("r1"), {})).run(
    image=sys.argv[1], command=["sh", "-c", "echo at work; exec sleep 600", "--function_to_execute", "augment"],
    volumes={}, detach=True, stdout=True, stderr=True, auto_remove=False, labels={"gapgate-test": sys.argv[2]},
    entrypoint=[],
)
"""


def test_a_container_ends_with_the_process_that_runs_the_pipeline(step_image, tmp_path):
    mark = f"{os.getpid()}"
    environment = os.environ | {"GAPGATE_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": "", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", RUN, step_image.tags[0], mark]
    with closing(docker.from_env()) as client:
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as run:
            assert [run.stdout.readline() for _ in range(2)] == ["ready\n", "at work\n"]
            named = {"filters": {"label": f"gapgate-test={mark}"}, "all": True}
            assert len(client.containers.list(**named)) == 1
            os.killpg(run.pid, signal.SIGKILL)
        wait_for(lambda: not client.containers.list(**named))
