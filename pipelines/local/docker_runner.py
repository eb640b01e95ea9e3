"""Running the steps in containers on this machine: under KFP's own DockerRunner, with what each container may do.

KFP gives every task the same arguments, counts a container that vanished as a success, and asks a registry for what is
not there. So the function that starts a container is ours while a run lasts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.catalog import STEPS
from components.platform.run_context import DRAINED_VARIABLE, EXPERIMENT_VARIABLE, RunContext
from components.platform.spool import Spool
from components.platform.workspace import home, tracking_uri
from gapgate.artifacts import RUN_VARIABLE
from gapgate.errors import SettingsError
from gapgate.settings.sections import Settings
from pipelines.container_images import built, kind_of
from serving.options import is_loopback

_OUT_OF_MEMORY = "the container was killed, out of memory; give Docker more, or lower train.batch_size"
_REMOTE = ("AWS_", "AZURE_", "GOOGLE_", "GIT_", "DVC_")
"""Beginnings of the variables that DVC remotes and git repositories take their credentials from."""


@contextmanager
def containers(settings: Settings, context: RunContext) -> Iterator[Any]:
    """KFP's runner for one run; every step runs in its image as the calling user.

    Raises:
        SettingsError: no Docker engine answers, or an image is not there.
    """
    from kfp import local
    from kfp.local import docker_task_handler

    steps = _Steps(settings, context, _find_images())
    kfps = docker_task_handler.run_docker_container
    docker_task_handler.run_docker_container = steps.run
    try:
        yield local.DockerRunner()
    finally:
        docker_task_handler.run_docker_container = kfps


def _find_images() -> dict[str, str]:
    """Image → its id, of all steps."""
    import docker

    try:
        client = docker.from_env()
    except docker.errors.DockerException as error:
        reason = " ".join(str(error).split())[:200]
        raise SettingsError(f"no Docker engine answers ({reason}); start one, or leave --runner out") from None
    with closing(client):
        return {image: _image_id(client, image) for image in {built(kind_of(step)) for step in STEPS}}


def _image_id(client: Any, image: str) -> str:
    import docker

    try:
        return str(client.images.get(image).id)
    except docker.errors.ImageNotFound:
        remedy = "build it with `make images`, or name others by GAPGATE_STEP_IMAGE and GAPGATE_TRAIN_IMAGE"
        raise SettingsError(f"there is no image {image} on this machine; {remedy}") from None


@dataclass(frozen=True, slots=True)
class _Steps:
    """Starts the containers of one run."""

    settings: Settings
    context: RunContext
    images: Mapping[str, str]

    def run(self, client: Any, image: str, command: list[str], volumes: Mapping[str, Any], **_: Any) -> int:
        """Run one step to its end, in the place of KFP's function; returns the exit status."""
        step = command[command.index("--function_to_execute") + 1]
        container = client.containers.create(
            image=image,
            command=command,
            volumes={**volumes, **self._volumes(step)},
            environment=self._environment(step, image),
            user=f"{os.getuid()}:{os.getgid()}",
            working_dir=str(Path.cwd()),
            network_mode=self._network(step),
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            read_only=True,
            tmpfs={"/tmp": "rw,mode=1777"},
            init=True,
        )
        try:
            container.start()
            for line in container.logs(stream=True):
                print(line.decode(errors="replace"), end="")
            status = int(container.wait()["StatusCode"])
            container.reload()
            if container.attrs["State"]["OOMKilled"]:
                Spool(self.context.spool, step).failed(_OUT_OF_MEMORY, 2)
            return status
        finally:
            container.remove(force=True)

    def _volumes(self, step: str) -> dict[str, Any]:
        """The workspace's own folder, at its own place; and for ingest what it reads."""
        shared = {str(home()): {"bind": str(home()), "mode": "rw"}}
        if step != "ingest":
            return shared
        data = self.settings.data
        if data.source:
            source = Path(data.source).absolute()
            folder = str(source.parent if source.is_file() else source)  # a table names what lies beside it
            return shared | ({folder: {"bind": folder, "mode": "ro"}} if source.exists() else {})
        folder = str(Path(data.repository if Path(data.repository).is_dir() else ".").absolute())
        return shared | {folder: {"bind": folder, "mode": "rw"}}  # what is not there yet is restored

    def _environment(self, step: str, image: str) -> dict[str, str]:
        passed_on = {"ingest": _REMOTE, "register": ("MLFLOW_",)}.get(step, ())
        return {
            **{name: value for name, value in os.environ.items() if name.startswith(passed_on)},
            RUN_VARIABLE: self.context.name,
            EXPERIMENT_VARIABLE: self.context.experiment,
            DRAINED_VARIABLE: "1",
            "GAPGATE_HOME": str(home()),
            "GAPGATE_IMAGE_DIGEST": self.images.get(image, ""),
            "HOME": "/tmp",
        }

    def _network(self, step: str) -> str:
        """None, but for the data's remote, the tracking server and pretrained weights."""
        server = urlsplit(tracking_uri())
        if step == "register" and server.scheme in ("http", "https"):
            return "host" if is_loopback(server.hostname or "") else "bridge"
        if (step == "ingest" and not self.settings.data.source) or (step == "train" and self.settings.train.pretrained):
            return "bridge"
        return "none"
